"""LoongForge plugin: backbones."""
