"""Parallel layouts, without torch: how large everything is in one, what is wrong with it, and the nearest that is right."""
