"""The settings of a run: every key of a composition's YAML outside the components' own configs.

Strict: an unknown key or a wrong type is an error. Every setting has a default that works on a laptop.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from loongforge_core.component import Backend

__all__ = [
    "DataSettings",
    "EncoderLayout",
    "EvaluationSettings",
    "ParallelSettings",
    "RunSettings",
    "Settings",
    "SlotSettings",
    "TrainSettings",
    "WeightedFiles",
]


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown, nothing coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class SlotSettings(Settings):
    """A slot's own keys; the rest of a slot is its component's config."""

    type: str
    """Name of the component, as `loongforge list` shows it."""
    pretrained: str | None = None
    """Hugging Face folder that this slot's weights start from."""
    freeze: bool | list[str] = False
    """`true` freezes the slot; a list freezes the parameters whose names in the slot match one of its glob patterns."""
    lr: float | None = Field(None, ge=0)
    """Peak learning rate of this slot; default `train.lr`."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of this slot; default `train.weight_decay`."""
    backend: Backend | None = None
    """Kernels of this slot; default `torch`."""
    also_encodes: list[str] = []
    """Encoders: other modalities whose items this encoder and its projector take too, such as `[video]` beside images."""


class EncoderLayout(Settings):
    """How one encoder, and its projector with it, is spread over the language model's ranks of the first pipeline stage."""

    layout: Literal["replicate", "tensor"] = "replicate"
    """`replicate`: every rank encodes everything, with tensor size 1; `tensor`: with a tensor-parallel size of its own."""
    tensor_model_parallel_size: PositiveInt | None = None
    """With `tensor`: a divisor of the language model's, which is the default; the groups so formed repeat the items."""


class ParallelSettings(Settings):
    """Sizes of the layout, in Megatron's names. One section per encoder slot beside them (`parallel.image_encoder`)."""

    tensor_model_parallel_size: PositiveInt = 1
    pipeline_model_parallel_size: PositiveInt = 1
    """All stages, those of `encoder_pipeline_model_parallel_size` included."""
    encoder_pipeline_model_parallel_size: int = Field(0, ge=0)
    """Stages at the beginning that hold encoders, projectors, embedding table and merge, but no decoder layer: 0 or 1."""
    num_layers_in_first_pipeline_stage: PositiveInt | None = None
    """Decoder layers of the first stage; the stages for which nothing is said share the others equally."""
    num_layers_in_last_pipeline_stage: PositiveInt | None = None
    """Decoder layers of the last stage."""
    context_parallel_size: PositiveInt = 1
    expert_model_parallel_size: PositiveInt = 1
    """Ranks that share the experts of a layer: data-parallel ones, and tensor ranks where an expert is on fewer of these."""
    expert_tensor_parallel_size: PositiveInt | None = None
    """Tensor ranks that an expert is split over; default `tensor_model_parallel_size`."""
    sequence_parallel: bool = False
    use_distributed_optimizer: bool = False
    """Optimizer states are split over the data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Gradients are reduced over the data-parallel ranks while the backward pass goes on."""
    overlap_param_gather: bool = False
    """With the distributed optimizer: weights are gathered while the next forward pass goes on."""
    ddp_bucket_size: PositiveInt | None = None
    """Parameters whose gradients are reduced together where that is overlapped; default: 40 million, or a million a data-parallel rank."""
    encoders: dict[str, EncoderLayout] = Field(default_factory=dict)
    """Filled from the sections named after encoder slots; not written in YAML by this name."""


class TrainSettings(Settings):
    """Optimisation, saving and logging."""

    global_batch_size: PositiveInt = 8
    """Samples of one optimizer step, over all ranks."""
    micro_batch_size: PositiveInt = 1
    """Samples of one forward pass on one rank; changes speed and memory, never the numbers."""
    seq_length: PositiveInt = 2048
    """Longest sample, in tokens, items included."""
    steps: PositiveInt = 100
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(0.0, ge=0)
    lr_warmup_steps: int = Field(0, ge=0)
    lr_decay_style: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = Field(0.01, ge=0)
    """On matrices; biases and norms have none."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    clip_grad: float = Field(1.0, ge=0)
    """Largest norm of the gradient; 0 leaves it alone."""
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that are computed again in the backward pass to save memory."""
    seed: int = Field(1, ge=0)
    start_from: str | None = None
    """The folder of another run of the same model, or one of its checkpoints: this run begins with its weights, whatever its settings were,
    and not with `pretrained` folders."""
    save_interval: int = Field(0, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    max_skipped_steps: int = Field(3, ge=0)
    """Steps in a row that are skipped, with nothing learned, because their loss or gradient is not finite; one more stops the run."""
    eval_interval: int = Field(0, ge=0)
    """Steps between evaluations on `data.eval_path`, each a line of evaluations.jsonl; the checkpoint of the best is kept. 0: only at the
    end."""
    keep_checkpoints: int = Field(0, ge=0)
    """Newest checkpoints that are kept; older ones are deleted after each save. 0: all are kept."""
    save_retain_interval: int = Field(0, ge=0)
    """With `keep_checkpoints`: steps between checkpoints that are kept for ever; a multiple of `save_interval`. 0: none are."""
    log_interval: PositiveInt = 10
    """Steps between lines of progress where no terminal shows a bar; metrics.jsonl has every step."""
    export_hf: bool = False
    """Also write `<output_dir>/hf` at the end."""


def at_least_one(path: Any) -> Any:
    if path == []:
        raise ValueError("got an empty list, expected at least one file")
    return path


class WeightedFiles(Settings):
    """One of several sources of training samples."""

    path: str | list[str]
    """A file or several, gone through together, epoch after epoch."""
    weight: float = Field(gt=0)
    """This source's share of a run's samples, in proportion to the weights of the others."""

    @field_validator("path", mode="before")
    @classmethod
    def _check_files(cls, path: Any) -> Any:
        return at_least_one(path)

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


class DataSettings(Settings):
    """The training data, and what the run is evaluated on."""

    type: Literal["conversations"] = "conversations"
    path: str | list[str | WeightedFiles] | None = None
    """JSON lines with `messages` and a column of paths per modality: a file; a list of files, which are one data set; or a list of
    `{path: ..., weight: ...}`, whose samples are mixed by weight."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a line that cannot be used does: bad JSON, a missing image, more tokens than `train.seq_length`. `skip` takes another line of
    the same source in its place, and lists it in `<output_dir>/skipped_lines.jsonl`."""
    prepare: str | None = None
    """A data set of an installed plugin (`loongforge list`) that is written into the folder of `path` when it is not there yet."""
    eval_path: str | None = None
    """Questions with answers, answered by greedy decoding at the end of the run."""
    num_workers: int = Field(0, ge=0)
    """Processes that prepare samples; 0: the training process itself."""
    packing: bool = False
    """The samples of a micro-batch follow one another in one row, blind to each other, instead of being padded to the longest; changes
    speed and memory, never the numbers."""
    shuffle: bool = True
    augment: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Distortion of training items by modality; the keys are the processor's (`loongforge show ENCODER`)."""

    @field_validator("path", mode="before")
    @classmethod
    def _check_form(cls, path: Any) -> Any:
        """The slips that pydantic, which knows each form by itself, would describe as something else."""
        if isinstance(path, dict):
            raise ValueError("got a mapping; files that are mixed by weight are a list: [{path: a.jsonl, weight: 0.7}, ...]")
        if isinstance(path, list) and len({isinstance(entry, dict) for entry in path}) == 2:
            raise ValueError("some entries have a weight and some have none; write all as {path: a.jsonl, weight: 0.7}, or all as files")
        return at_least_one(path)

    @property
    def sources(self) -> list[WeightedFiles]:
        """The files of `path` that are gone through together, each with its weight."""
        if self.path is None:
            return []
        files = [self.path] if isinstance(self.path, str) else self.path
        weighted = [source for source in files if isinstance(source, WeightedFiles)]
        return weighted or [WeightedFiles(path=[file for file in files if isinstance(file, str)], weight=1.0)]

    @property
    def paths(self) -> list[str]:
        """All training files, in their order."""
        return [path for source in self.sources for path in source.paths]


class EvaluationSettings(Settings):
    """How questions are answered, and which of several evaluations is the best."""

    best_by: Literal["exact_match", "loss"] = "exact_match"
    """With `train.eval_interval`: by the share of right answers, and among equals by the loss; or by the loss alone: then no question is
    answered before the end, which saves most of the time."""

    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt = 32


class RunSettings(Settings):
    """All of a composition but its `model:` section."""

    tokenizer: str | None = None
    """Hugging Face tokenizer folder."""
    parallel: ParallelSettings = ParallelSettings()
    train: TrainSettings = TrainSettings()
    data: DataSettings = DataSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    output_dir: str = "runs/default"
