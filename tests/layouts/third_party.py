"""Encoders as third parties write them. They see pictures of 8 x 8 pixels as 4 patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, checkpoint
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from loongforge_core.component import ComponentSpec, EncoderConfig, Initial, InitialValues, Shape, indivisible
from loongforge_core.layers.attention import AllHeadsNormSelfAttention
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_core.layers.specs import block_spec, layer_spec
from loongforge_core.layers.transformer_config import transformer_config

WIDTH = 16


class PatchConfig(EncoderConfig):
    """Four tokens an image, as wide as the decoder."""

    @property
    def feature_size(self) -> int:
        return WIDTH

    def token_grid(self, size: Shape) -> Shape:
        return (2, 2)


class SplitPatchConfig(PatchConfig):
    """Of an encoder that tensor ranks can share."""

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, hidden_size=2 * WIDTH)


class TwoLevelConfig(PatchConfig):
    @property
    def num_levels(self) -> int:
        return 2


def patches(items: Items) -> Tensor:
    return items.inputs["pixel_values"].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)


class TwoLevelEncoder(Encoder[TwoLevelConfig]):
    """Plain torch; emits two levels."""

    def __init__(self, config: TwoLevelConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.features, self.first, self.second = (nn.Linear(3 * 16, WIDTH) for _ in range(3))
        self.scale = nn.Parameter(torch.empty(()))

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.02, first={"scale": Initial("constant", 2.0)})

    def forward(self, items: Items) -> Features:
        pixels_NP = patches(items)
        return Features(self.scale * self.features(pixels_NP), ((2, 2),) * len(items), (self.first(pixels_NP), self.second(pixels_NP)))


SEEN: list[tuple[str, int]] = []
"""When a `GlobalStateEncoder` of this process asked for the tensor-parallel size, and what it was told."""


def ask(when: str) -> None:
    SEEN.append((when, parallel_state.get_tensor_model_parallel_world_size()))


class AskInBackward(torch.autograd.Function):
    """Identity; its gradient is divided by the tensor-parallel size and multiplied again, each time asking for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = parallel_state.get_tensor_model_parallel_world_size()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        ask("backward")
        return gradient * parallel_state.get_tensor_model_parallel_world_size() / ctx.size


class DescribesItself(ColumnParallelLinear):  # type: ignore[misc]
    """A layer that says in Megatron's words, without naming a group, which part of a tensor is its own."""

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        tensors = self.state_dict(prefix="", keep_vars=True)
        described: dict[str, Any] = make_sharded_tensors_for_checkpoint(tensors, prefix, {"weight": 0, "bias": 0}, sharded_offsets)
        return described


class GlobalStateEncoder(Encoder[SplitPatchConfig]):
    """Megatron's layers, built and run as in Megatron's own models: whatever groups there are, they find them in `parallel_state`."""

    def __init__(self, config: SplitPatchConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        ask("build")
        size = parallel_state.get_tensor_model_parallel_world_size()
        megatron = TransformerConfig(
            num_layers=1,
            hidden_size=WIDTH,
            num_attention_heads=4,
            tensor_model_parallel_size=size,
            use_cpu_initialization=True,
            perform_initialization=False,
            params_dtype=context.dtype,
        )
        arguments: dict[str, Any] = {"config": megatron, "init_method": nn.init.zeros_, "bias": True, "skip_bias_add": False}
        self.inner = DescribesItself(3 * 16, 2 * WIDTH, gather_output=False, **arguments)
        self.outer = RowParallelLinear(2 * WIDTH, WIDTH, input_is_parallel=True, **arguments)

    def forward(self, items: Items) -> Features:
        ask("forward")
        hidden_NW = checkpoint(self.run, False, patches(items).requires_grad_()) if self.training else self.run(patches(items))
        return Features(hidden_NW, ((2, 2),) * len(items))

    def run(self, pixels_NP: Tensor) -> Tensor:
        ask("run")
        assert self.inner.weight.shape[0] * parallel_state.get_tensor_model_parallel_world_size() == 2 * WIDTH
        hidden_NW: Tensor = self.outer(torch.tanh(self.inner(AskInBackward.apply(pixels_NP))[0]))[0]  # type: ignore[no-untyped-call]
        return hidden_NW


class HeadNormConfig(PatchConfig):
    """One transformer layer whose queries and keys are normalised: head by head, or over all heads together."""

    backends = ("torch", "transformer_engine")
    over_all_heads: bool = False

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, num_attention_heads=4)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": 1,
            "hidden_size": WIDTH,
            "ffn_hidden_size": 2 * WIDTH,
            "num_attention_heads": 4,
            "num_query_groups": 4,
            "normalization": "RMSNorm",
            "activation": "gelu",
            "add_bias_linear": False,
            "qk_layernorm": not self.over_all_heads,
        }


class HeadNormEncoder(Encoder[HeadNormConfig]):
    """Patches of an image see each other."""

    def __init__(self, config: HeadNormConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.embedding = nn.Linear(3 * 16, WIDTH)
        megatron = transformer_config(config, context)
        layer = layer_spec(megatron, context.backend, mask=AttnMaskType.no_mask)
        if config.over_all_heads:
            layer.submodules.self_attention.module = AllHeadsNormSelfAttention
        self.transformer = TransformerBlock(
            config=megatron, spec=block_spec(megatron, context.backend, [layer]), pg_collection=context.groups
        )

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.3)

    def forward(self, items: Items) -> Features:
        hidden_NW = self.embedding(patches(items))
        hidden_sbW = self.transformer(hidden_NW.view(len(items), 4, WIDTH).transpose(0, 1), attention_mask=None)
        return Features(hidden_sbW.transpose(0, 1).flatten(0, 1), ((2, 2),) * len(items))


def spec(name: str, config: str, model: str) -> ComponentSpec:
    where, modalities = f"{__name__}:", ("image", "video")
    return ComponentSpec(kind="encoder", name=name, summary=name, modalities=modalities, config=where + config, model=where + model)


SPECS = (
    spec("two_levels", "TwoLevelConfig", "TwoLevelEncoder"),
    spec("head_norms", "HeadNormConfig", "HeadNormEncoder"),
    spec("global_state", "SplitPatchConfig", "GlobalStateEncoder"),
)
