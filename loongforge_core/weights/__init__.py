"""Hugging Face folders, in and out: one table per component, read in both directions."""
