"""LoongForge plugin: audio encoders."""
