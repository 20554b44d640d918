"""Strided convolutions over a waveform of any length."""
