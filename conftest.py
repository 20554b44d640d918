"""For every test: Megatron runs without an accelerator, and one thread a process, since tests of ranks start several at once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()
