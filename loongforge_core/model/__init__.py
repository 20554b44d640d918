"""The combination model, from a checked composition to what Megatron's schedules run."""

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()
