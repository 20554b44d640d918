"""LoongForge plugin: models."""
