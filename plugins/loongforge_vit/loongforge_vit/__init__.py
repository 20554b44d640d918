"""LoongForge plugin: encoders."""
