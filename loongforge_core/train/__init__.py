"""A thin loop over Megatron's schedules, optimizer and checkpointing."""

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()
