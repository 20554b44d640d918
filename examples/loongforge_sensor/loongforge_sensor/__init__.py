"""A third-party LoongForge plugin: an encoder for sampled waveforms."""
