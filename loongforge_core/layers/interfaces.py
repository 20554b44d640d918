"""What encoders, projectors, backbones and recipes are to each other: abstract modules and what they exchange.

A component's module is built from its config (what it is) and a `BuildContext` (how it runs), and reads nothing global.

Shapes: N tokens of all items together, W feature width, s sequence, b batch, h language model width, v vocabulary (this rank's part),
l levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from loongforge_core.component import (
    BackboneConfig,
    Backend,
    ComponentConfig,
    EncoderConfig,
    InitialValues,
    ProjectorConfig,
    RecipeConfig,
    Shape,
)

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection

__all__ = [
    "Backbone",
    "BuildContext",
    "Component",
    "Encoder",
    "Features",
    "Items",
    "PipelineStage",
    "Projector",
    "Recipe",
]

Recompute = Literal["none", "selective", "full"]

ConfigT = TypeVar("ConfigT", bound=ComponentConfig)
EncoderConfigT = TypeVar("EncoderConfigT", bound=EncoderConfig)
ProjectorConfigT = TypeVar("ProjectorConfigT", bound=ProjectorConfig)
BackboneConfigT = TypeVar("BackboneConfigT", bound=BackboneConfig)
RecipeConfigT = TypeVar("RecipeConfigT", bound=RecipeConfig)


@dataclass(frozen=True, kw_only=True)
class PipelineStage:
    """Which part of a backbone this module is."""

    pre_process: bool = True
    """Holds the embedding table as its input."""
    post_process: bool = True
    """Holds the final norm, the output layer and the loss."""
    vp_stage: int | None = None
    """Index of the virtual stage, where stages are interleaved."""


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """How a component runs. Handed to every module; no module reads global parallel state."""

    groups: ProcessGroupCollection
    """The component's own process groups."""
    backend: Backend = "torch"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """`meta` builds without memory."""
    recompute: Recompute = "none"
    sequence_parallel: bool = False
    stage: PipelineStage = field(default_factory=PipelineStage)
    padded_vocab_size: int | None = None
    """Rows of the embedding table after padding for tensor parallelism; None: the config's `vocab_size`."""
    max_sequence_length: int | None = None
    """The longest sequence of the run, for components whose tables or rotary scaling depend on it; None: what the config allows."""
    cross_entropy_dtype: torch.dtype = torch.float32
    """Precision of the loss over the vocabulary."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """The remaining fields of Megatron's TransformerConfig that describe the layout (pipeline sizes, overlap), verbatim."""


@dataclass(frozen=True)
class Items:
    """All items of one modality in a micro-batch, sample by sample, each sample's in its order."""

    inputs: Mapping[str, Tensor]
    """What the processor made, concatenated along axis 0, on the module's device, in the processor's dtypes: encoders cast to theirs."""
    sizes: tuple[Shape, ...]
    """Each item's size, on the host: nothing in a model needs to ask a device how long something is."""

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Features:
    """What an encoder emits, and a projector too."""

    hidden_NW: Tensor
    """Items one after another, without padding."""
    grids: tuple[Shape, ...]
    """How each item's tokens lie; their products add up to N."""
    levels: tuple[Tensor, ...] = ()
    """Extra features `[N, W]` from earlier layers, level 0 first."""


class Component(nn.Module, ABC, Generic[ConfigT]):
    """A module built from (config, context).

    Made of Megatron's parallel layers, of `loongforge_core.layers`, or of plain torch layers, which every rank then holds whole. What a
    constructor puts into parameters is never used: core fills them by `initial_values` or from a folder, and converts them to
    `context.dtype`.
    """

    def __init__(self, config: ConfigT, context: BuildContext) -> None:
        super().__init__()
        self.config = config
        self.context = context

    def initial_values(self) -> InitialValues:
        """The distribution of every parameter, by glob pattern over its name in this module. Default: a transformer's, 0.02 wide."""
        return InitialValues.transformer(0.02)

    def published_rows(self, name: str) -> int | None:
        """Rows of a vocabulary-sized parameter without its padding for tensor parallelism; None for every other parameter."""
        return None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Megatron's description of every tensor here and its place in the whole. Right for Megatron's layers and for replicated ones."""
        from loongforge_core.parallel.bookkeeping import number_copies, sharded_state_dict
        from loongforge_core.parallel.global_state import global_groups

        with global_groups(self.context.groups):  # a module inside may ask which part of a tensor is its own
            described = sharded_state_dict(self, prefix, sharded_offsets, metadata, groups=self.context.groups)
        number_copies(described, self.context.groups)
        return described


class Encoder(Component[EncoderConfigT]):
    """Items of a modality -> features."""

    @abstractmethod
    def forward(self, items: Items) -> Features:
        """Features of at least one item, `[N, config.feature_size]`, and `config.num_levels` levels of the same shape.

        The order is the items'; item i gives `config.num_tokens(items.sizes[i])` rows. Items do not see each other.
        """


class Projector(Component[ProjectorConfigT]):
    """Features -> embeddings of the language model's width. Runs in its encoder's groups."""

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """`[N', config.hidden_size]`, the grids that `config.token_grid` gives, and every level projected likewise."""


class Backbone(Component[BackboneConfigT]):
    """A language model, or the part of it that one pipeline stage holds."""

    @abstractmethod
    def embed(self, input_ids_bs: Tensor) -> Tensor:
        """Rows of the embedding table, `[s, b, h]`, full sequence. Only where `stage.pre_process`."""

    @abstractmethod
    def forward(
        self,
        decoder_input_sbh: Tensor | None,
        position_ids: Tensor,
        *,
        token_ids_bs: Tensor,
        labels_bs: Tensor | None = None,
        padding_mask_bs: Tensor | None = None,
        packed: PackedSeqParams | None = None,
        levels: Sequence[Tensor] = (),
    ) -> Tensor:
        """The loss of every token `[b, s]` float32 where labels are given, logits of the whole vocabulary `[b, s, v]` where not;
        before the last stage, hidden states `[s, b, h]` and behind them the levels that later stages add (`layers.levels`).

        `decoder_input_sbh` is what `embed` returned, with items merged in; None behind the first stage, whose input arrives by
        `set_input_tensor`. `position_ids` is `[b, s]`, or `[3, b, s]` where `config.position_axes` is 3. Level i, `[s, b, h]` and zero
        where there is no item, is added to the output of decoder layer i. Every stage gets `token_ids_bs` (negative where an item goes)
        and `padding_mask_bs` (True behind a sample's end), for what looks at tokens again: multi-token prediction, a router's loss.
        """

    @abstractmethod
    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        """Takes the previous stage's output; Megatron's schedules call it."""

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        """The weight shared between first and last stage, for Megatron's gradient sum; None where nothing is tied."""
        return None


class Recipe(Generic[RecipeConfigT]):
    """What a `model_type` means to a running model. Holds no parameters; its config holds what data workers need of it.

    Its weights function (`ComponentSpec.weights`) takes `(configs, tables)`, both by slot, and returns the whole model's
    table, or None where the mix has no published format: then each slot goes into a folder of its own.
    """

    def __init__(self, config: RecipeConfigT) -> None:
        self.config = config

    def loss(self, token_losses_bs: Tensor, loss_mask_bs: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the target tokens, and their number; the mean over the global batch is what trains."""
        return (token_losses_bs * loss_mask_bs).sum(), loss_mask_bs.sum()
