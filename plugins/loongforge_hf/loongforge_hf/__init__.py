"""LoongForge plugin: models of transformers as encoders."""
