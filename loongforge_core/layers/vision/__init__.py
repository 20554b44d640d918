"""What vision encoders share that take images and videos of any size, packed one behind another without padding.

An item's size is `(frames, rows, columns)`, counted in patches and known on the host, so that nothing here asks a device how long something
is. Inside an encoder patches lie in any order; what it emits lies frame by frame, row by row.
"""
