"""The page a plugin author reads first: what a component is, and how a plugin announces it.

A plugin is an installed distribution with an entry point in the group `loongforge`, naming a module that implements hooks
(`loongforge_core.registry.hooks`). A complete one to copy is `examples/loongforge_sensor`.

    # my_plugin/plugin.py                                         # pyproject.toml
    from loongforge_core import ComponentSpec, hookimpl           [project.entry-points.loongforge]
                                                                  my_plugin = "my_plugin.plugin"
    @hookimpl
    def loongforge_components():
        return [
            ComponentSpec(
                kind="encoder",
                name="my_encoder",
                summary="convolutions over radar sweeps",
                modalities=("radar",),
                config="my_plugin.my_encoder.config:MyConfig",
                model="my_plugin.my_encoder.model:MyEncoder",
                processor="my_plugin.my_encoder.processor:MyProcessor",
            )
        ]

    @hookimpl
    def loongforge_config_paths():
        return ["my_plugin.configs"]          # a package (folder) that holds YAML: GROUP/NAME.yaml, and compositions

A component has up to four parts, each a string `package.module:attribute`, imported only when it is used:

    config     a subclass of EncoderConfig, ProjectorConfig, BackboneConfig or RecipeConfig (below); imports no torch
    model      a module that implements loongforge_core.layers.interfaces; builds from (config, context)
    weights    a function config -> loongforge_core.weights.table.Table, for import from and export to Hugging Face
    processor  a Processor (below): a file -> the encoder's inputs; numpy only; encoders have one

This module imports neither torch nor Megatron, and neither may a `config` or a `processor` module: `loongforge list`,
`validate` and the data workers use them. What a plugin needs of this page and of `layers.interfaces` is imported from
`loongforge_core` itself, which imports torch only when such a name needs it; errors in a user's files are raised as `DataError(message)`.

YAML then selects the component by name, in a slot named after its modality, and data brings items in a column named after it:

    model:                                    # my_model.yaml, a composition
      radar_encoder: {type: my_encoder, hidden_size: 64}          # `type`, keys of the slot (SLOT_KEYS), the config's fields
      radar_projector: {type: mlp}            # any installed projector; its widths follow from its neighbours
      foundation: {type: qwen2, ...}          # any installed backbone
    tokenizer: /path/to/hf/folder             # or pkg://my_plugin/tokenizer, a folder inside an installed package
    data: {path: train.jsonl}

    {"messages": [{"role": "user", "content": "<radar>How many?"}, {"role": "assistant", "content": "3"}], "radars": ["sweeps/0.npy"]}

Without a `model_type`, the default recipe writes an item as the tag of its modality, `<radar>`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np

API_VERSION = 1
"""Version of this page. A plugin states the one it was written for."""

SUPPORTED_API_VERSIONS = range(1, 2)

Kind = Literal["encoder", "projector", "backbone", "recipe"]

Shape = tuple[int, ...]
"""How tokens lie, or how large an item is: `(height, width)`, `(frames,)`, `(time, height, width)`; the encoder says which."""


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """One component as its plugin announces it. Light: strings only, nothing is imported."""

    kind: Kind
    name: str
    """What YAML calls it: `type: NAME` in a slot, `model_type: NAME` for a recipe."""
    summary: str
    """One line for `loongforge list`."""
    config: str
    model: str = ""
    """Empty for a recipe, whose config is all there is of it outside its weights and loss."""
    weights: str = ""
    """Empty: the component has no published format, and its weights travel under their own names."""
    processor: str = ""
    modalities: tuple[str, ...] = ()
    """Encoders: what they encode. Any name; a slot `<modality>_encoder` takes an encoder that lists its modality."""
    reference: str = ""
    """The class that it equals, such as `transformers.SiglipVisionModel`."""
    paper: str = ""
    left_out: str = ""
    """What the reference has and this component has not, in a few words."""
    api_version: int = API_VERSION


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set that a plugin can write out, selected by `data.prepare: NAME`."""

    name: str
    summary: str
    prepare: str
    """`package.module:function`. The function takes the folder that `data.path` lies in, a Path, and writes the files there that the
    composition names in `data`. It is called before every run, so it does nothing where its files are complete already."""
    api_version: int = API_VERSION


# ----------------------------------------------------------------------------------------------------------------- configs


class ComponentConfig(BaseModel):
    """What a component *is*: sizes and switches. No layout, no dtype, no kernels.

    Core takes a slot's own keys out first (`SLOT_KEYS`), so a config may not declare one of them.
    A docstring under a field becomes its description in `loongforge show` and in the JSON schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {}
    """Keys of the original design's YAML: key -> value -> the fields that it means, which may be none; a value that was a pair is a tuple.

    `backend: transformer_engine` among them is a wish: where it is not installed, `torch` is used and said.
    """

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Why the module cannot be split over `size` tensor ranks: a reason for each number that does not fit; none where it can.

        Default: it is not split at all, and rather than holding all of it on every rank unnoticed, sizes above 1 are refused. A module
        made of Megatron's parallel layers says what these cut: `return indivisible(size, num_attention_heads=..., ffn_hidden_size=...)`.
        """
        return () if size == 1 else (f"it is not made to be split, and each of {size} ranks would hold all of it",)

    @property
    def depends_on_layout(self) -> str:
        """What makes the numbers depend on the parallel layout or the size of a micro-batch, and what would not; empty: nothing does."""
        return ""


def indivisible(size: int, **numbers: int) -> list[str]:
    """A reason, with its arithmetic, for every number that `size` does not divide; for `tensor_parallel_conflicts`."""
    return [
        f"{name} {number} does not divide by {size}: {number} = {number // size} x {size} + {number % size}"
        for name, number in numbers.items()
        if number % size
    ]


SLOT_KEYS = frozenset({"type", "pretrained", "freeze", "lr", "weight_decay", "backend", "also_encodes"})


class EncoderConfig(ComponentConfig, ABC):
    """An encoder, asked without building it."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Width of the features it emits."""

    @abstractmethod
    def token_grid(self, size: Shape) -> Shape:
        """How the features of an item of `size` lie: `(rows, columns)` say. Their product is the number of tokens.

        `size` is what the processor says of the item. Raises ValueError for one that the encoder cannot take.
        """

    @property
    def fixed_item_size(self) -> Shape | None:
        """The size that the processor brings every item to; None where it varies. `validate` counts tokens with it."""
        return None

    @property
    def typical_item_size(self) -> Shape | None:
        """A size that items have where it varies, by which is checked whether a projector takes features that lie so; None: not checked."""
        return self.fixed_item_size

    def num_tokens(self, size: Shape) -> int:
        return math.prod(self.token_grid(size))

    def cost(self, size: Shape) -> float:
        """Relative cost of encoding an item of `size`, for balancing items over ranks. Default: its tokens."""
        return float(self.num_tokens(size))

    @property
    def num_levels(self) -> int:
        """Extra features per item, from earlier layers; level i is added after the decoder's layer i (DeepStack)."""
        return 0


class ProjectorConfig(ComponentConfig, ABC):
    """A projector. Core fills the widths and levels in from its neighbours; where YAML states them they must agree."""

    input_size: int
    """Width of the encoder's features; inferred."""
    hidden_size: int
    """Width of the embeddings it emits, the language model's; inferred."""
    num_levels: int = 0
    """Levels that its encoder emits beside the features; inferred."""

    def token_grid(self, grid: Shape) -> Shape:
        """How its output tokens lie, for features that lie in `grid`. Raises ValueError for a grid that it cannot take."""
        return grid

    @property
    def takes_levels(self) -> bool:
        """Whether it projects an encoder's levels too."""
        return False

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Default: none. A projector is small: what is not made of parallel layers is held whole by every tensor rank of its encoder."""
        return ()


class BackboneConfig(ComponentConfig, ABC):
    """A language model."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    """Rows of the embedding table as published, before any padding for tensor parallelism."""

    @property
    def takes_levels(self) -> bool:
        """Whether levels can be added at its layers."""
        return False

    @property
    def position_axes(self) -> int:
        """Axes of the position ids that it takes: 1, or 3 for M-RoPE. A recipe that makes others does not fit."""
        return 1

    @property
    def needs_sequence_parallel(self) -> bool:
        """Whether, over several tensor ranks, sequences must be cut too: Megatron's experts take tokens that way only."""
        return False

    def expert_parallel_conflicts(self, size: int, tensor_size: int) -> Sequence[str]:
        """Why experts cannot be shared by `size` ranks and each be split over `tensor_size` more: a reason for each number that does not
        fit; none where it can. Default: it has no experts."""
        return () if size == 1 else ("it has no experts that ranks could share",)

    def numbers_by_length(self, longest: int) -> Mapping[str, Any]:
        """What of its numbers follows from the longest sequence of a run, `train.seq_length`: a checkpoint keeps it. Default: nothing."""
        return {}

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that it was made for, in tokens; None: no limit is known. `train.seq_length` may not be above it."""
        return None


@dataclass(frozen=True)
class ItemMarkup:
    """How an item is written in a prompt: `before`, the placeholder once for every token of the item, `after`."""

    placeholder: str
    """A token of the tokenizer, or any text that stands for one."""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.placeholder}{self.after}"


@dataclass(frozen=True)
class ItemRun:
    """Consecutive tokens of an item, and the text around them."""

    grid: Shape
    """How its tokens lie."""
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class ItemSpan:
    """Where a run of an item's tokens stands in a sample; most items are one run."""

    modality: str
    start: int
    """Index of its first placeholder in the token sequence."""
    grid: Shape
    """How its tokens lie after the projector; they are consecutive."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """`ProcessedItem.details`."""
    continues: bool = False
    """It goes on with the item of the span before it."""

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)


class RecipeConfig(ComponentConfig, ABC):
    """What a `model_type` means, as far as data workers and `validate` need it; the rest is `layers.interfaces.Recipe`."""

    behaves_as_default: ClassVar[bool] = False
    """Positions and loss are the default recipe's: a free combination that fits this recipe's published format is exported in it."""

    @abstractmethod
    def markup(self, modality: str) -> ItemMarkup:
        """How an item of `modality` is written in a prompt. Raises KeyError for a modality that the recipe does not know."""

    def runs(self, modality: str, grid: Shape, details: Mapping[str, Any]) -> Sequence[ItemRun]:
        """What stands in the place of the placeholder of an item whose tokens lie in `grid`: its tokens in order, text between them.

        Default: one run. `details` are `ProcessedItem.details`, such as when each frame of a video was taken.
        """
        return (ItemRun(grid),)

    def position_ids(self, length: int, spans: Sequence[ItemSpan]) -> np.ndarray:
        """Position of each of a sample's tokens: int64 `[length]`, or `[3, length]` (time, height, width) for M-RoPE."""
        import numpy as np

        return np.arange(length, dtype=np.int64)

    @property
    def position_axes(self) -> int:
        """1, or 3 for M-RoPE."""
        return 1


# -------------------------------------------------------------------------------------------------------------- processors

ConfigT = TypeVar("ConfigT", bound=EncoderConfig)


@dataclass(frozen=True)
class ProcessedItem:
    """One image, video or sound, ready for its encoder."""

    inputs: Mapping[str, np.ndarray]
    """What the encoder takes, by name. Along axis 0 the arrays of several items are concatenated; dtypes reach the encoder as they are."""
    size: Shape
    """The item's size, in the units that the encoder's config counts tokens from."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe needs to know beside the size, such as a video's seconds per frame; hashable values."""


@dataclass(frozen=True)
class Augmentation:
    """How strongly to distort the items of one training sample, and the random numbers to do it with."""

    random: np.random.Generator
    """Seeded by the run's seed and the sample's place in the run, so that a resumed run sees the same items."""
    progress: float
    """Share of the run's steps already done, 0 to 1."""
    settings: BaseModel
    """`data.augment.<modality>`, validated by the processor's `augment_config`."""


class Processor(ABC, Generic[ConfigT]):
    """Opens a file of its modality. Numpy only: it runs in data workers. Made once per process, so it may keep what is slow to make."""

    augment_config: ClassVar[type[BaseModel] | None] = None
    """Settings of `data.augment.<modality>`; None: the processor distorts nothing, and asking for it is an error."""

    def __init__(self, config: ConfigT, modality: str = "") -> None:
        """`modality` is the one of the encoder's modalities whose files this processor opens."""
        self.config = config
        self.modality = modality

    @abstractmethod
    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        """The item in the file. Raises DataError naming the file when it is missing, truncated or of another kind."""

    def preview(self, path: Path) -> np.ndarray | None:
        """What `predictions.png` shows of the file: uint8, colours `[H, W, 3]` or intensities `[H, W]`.

        None: the image that the file is, or else its name.
        """
        return None

    def published(self) -> Mapping[str, Any]:
        """What a Hugging Face `preprocessor_config.json` says of the same processing; empty where there is no such class."""
        return {}


# ------------------------------------------------------------------------------------------------------- initial values


@dataclass(frozen=True)
class Initial:
    """The distribution that a tensor's initial values come from. Drawn by the tensor's global name, so every layout agrees."""

    kind: Literal["normal", "uniform", "constant", "given"]
    value: float = 0.0
    """Standard deviation, half width of the interval around zero, or the constant."""
    values: Callable[[Shape], np.ndarray] | None = None
    """For `given`: the whole tensor of this shape, such as a table of sinusoids that is stored but not learned from scratch."""


@dataclass(frozen=True)
class InitialValues:
    """Distributions by glob pattern over the names in the state dict, the first that matches; a name that none matches is an error.

    Buffers are drawn too, unless registered with `persistent=False`.
    """

    patterns: Mapping[str, Initial] = field(default_factory=dict)

    @staticmethod
    def transformer(std: float, first: Mapping[str, Initial] | None = None) -> InitialValues:
        """Ones for norms, zeros for biases, normal of width `std` for the rest; the patterns of `first` come before these."""
        return InitialValues(
            {
                **(first or {}),
                "*bias": Initial("constant"),
                "*norm*.weight": Initial("constant", 1.0),
                "*": Initial("normal", std),
            }
        )
