"""LoongForge plugin: projectors."""
