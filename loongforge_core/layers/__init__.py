"""Building blocks on Megatron-Core, for our components and for anybody's."""

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()
