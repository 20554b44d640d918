"""A component's Hugging Face table: which tensors on disk are which parameters here, and which keys of config.json are which of ours.

One table per component and format on disk, read in both directions. Names are those on disk. Tables nest: a whole model's table is made
of its components'. No layout and no dtype in it.
"""
