"""Makes Megatron-Core run without an accelerator: every redirection, with its reason.

`prepare_megatron()` installs an import hook. On a CPU every `megatron.core` module gets, right after it ran, a stand-in
for the name `torch` and whatever else `REDIRECTIONS` lists for it; the rest of the process keeps the real torch. Two
methods of `torch.Tensor` have to be replaced for everyone, and they ask who calls. With an accelerator only `repairs.py`
applies.

torch is imported when Megatron is, not before, so that a package can prepare Megatron in its `__init__` at no cost.
"""

from __future__ import annotations

import ast
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from packaging.specifiers import SpecifierSet

from loongforge_core.errors import VersionError
from loongforge_core.parallel.repairs import REPAIRS, Replacement

__all__ = ["REDIRECTIONS", "SILENCED_LOGS", "SILENCED_WARNINGS", "TESTED_VERSIONS", "prepare_megatron"]

TESTED_VERSIONS = ">=0.16.1,<0.20"
MEGATRON = "megatron.core"


def prepare_megatron() -> None:
    """Call before `megatron.core` is used, as often as you like; modules imported earlier are brought up to date.

    Raises `VersionError` when Megatron-Core is missing or outside the tested range.
    """
    if any(isinstance(finder, MegatronFinder) for finder in sys.meta_path):
        return
    check_version()
    sys.meta_path.insert(0, MegatronFinder())
    earlier = [module for name, module in sys.modules.items() if in_megatron(name)]
    if earlier and not has_accelerator():
        silence()
    rebind(earlier, [change for module in earlier for change in adapt(module)])


def in_megatron(module_name: str) -> bool:
    return f"{module_name}.".startswith(f"{MEGATRON}.")


@functools.cache
def has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


# ---- what stands in for CUDA ----------------------------------------------------------------------------------------


class Stream:
    """A stream or event where every call has finished when it returns, so that there is nothing to wait for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def do_nothing(self, *_: Any, **__: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait = do_nothing

    def record_event(self, event: Stream | None = None) -> Stream:
        return event or self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    __hash__ = None  # type: ignore[assignment]


def always(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def answer(value: Any) -> Callable[[Any], Any]:
    return lambda _: lambda *args, **kwargs: value


def create_on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    def create(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        return factory(*args, device="cpu" if str(device).startswith("cuda") else device, **kwargs)

    return functools.wraps(factory)(create)


def read_cpu_generator(*_: Any, **__: Any) -> Any:
    import torch

    return torch.get_rng_state()


def write_cpu_generator(state: Any, *_: Any, **__: Any) -> None:
    import torch

    torch.set_rng_state(state)


def seed_cpu_generator(seed: int) -> None:
    import torch

    # `torch.manual_seed` also notes its caller, for a CUDA that never comes: 0.2 ms, and a list that grows.
    torch.default_generator.manual_seed(seed)


def run_uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and hasattr(tensor, "numpy") else tensor


def calling_module() -> str:
    """Name of the module that called the function that asks."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def stay_for_megatron(cuda: Callable[..., Any]) -> Callable[..., Any]:
    def stay(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor if in_megatron(calling_module()) else cuda(tensor, *args, **kwargs)

    return functools.wraps(cuda)(stay)


def cuda_type_for_optimizer(type_of: Callable[..., Any]) -> Callable[..., Any]:
    def cuda_type(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        found = type_of(tensor, *args, **kwargs)
        if not isinstance(found, str) or not calling_module().startswith(f"{MEGATRON}.optimizer"):
            return found
        return f"torch.cuda.{found.rpartition('.')[2]}"

    return functools.wraps(type_of)(cuda_type)


class NoTransformerEngineLinear:
    """Nothing is an instance of it."""


# ---- the table ------------------------------------------------------------------------------------------------------
# Rows for `torch` and `torch.cuda` hold inside Megatron's modules only. No row asks for a version: where a version has
# no use for a row, it does no harm.

DEVICE_AGNOSTIC = "Megatron asks for the device of its inputs, or of the process group"

REDIRECTIONS: tuple[Replacement, ...] = (
    *(
        Replacement("torch", name, create_on_cpu, "device='cuda' is written into Megatron's code", DEVICE_AGNOSTIC)
        for name in ("empty", "empty_like", "ones", "tensor", "zeros")
    ),
    Replacement("torch.cuda", "current_device", answer("cpu"), "is passed on as device=", DEVICE_AGNOSTIC),
    Replacement("torch.Tensor", "cuda", stay_for_megatron, "moves tied embeddings and loaded state", DEVICE_AGNOSTIC),
    Replacement(
        "torch.Tensor",
        "type",
        cuda_type_for_optimizer,
        "the optimizer compares it with 'torch.cuda.FloatTensor' to tell precisions apart, and refuses others",
        "the optimizer compares Tensor.dtype",
    ),
    Replacement("torch.cuda", "synchronize", answer(None), "pipeline sends, timers, saving", DEVICE_AGNOSTIC),
    *(
        Replacement("torch.cuda", name, make, "expert dispatch, gradient reduction", "Megatron uses torch.Stream")
        for name, make in {
            "Stream": always(Stream),
            "Event": always(Stream),
            "current_stream": always(Stream),
            "default_stream": always(Stream),
            "stream": always(nullcontext),
        }.items()
    ),
    *(
        Replacement(where, name, always(stand_in), "random states of dropout and recomputation", DEVICE_AGNOSTIC)
        for where, name, stand_in in (
            ("torch.cuda", "get_rng_state", read_cpu_generator),
            ("torch.cuda", "set_rng_state", write_cpu_generator),
            ("torch.cuda", "manual_seed", seed_cpu_generator),
            ("megatron.core.tensor_parallel.random", "_get_cuda_rng_state", read_cpu_generator),
            ("megatron.core.tensor_parallel.random", "_set_cuda_rng_state", write_cpu_generator),
        )
    ),
    Replacement(
        "megatron.core.transformer.moe.moe_utils",
        "maybe_move_tensor_to_cpu",
        always(to_host),
        "converts CUDA tensors only, so that all-to-all would get tensors as split sizes",
        "it converts every tensor",
    ),
    Replacement(
        "megatron.core.jit",
        "jit_fuser",
        always(run_uncompiled),
        "torch.compile: slow, and a compiler must be installed",
        "it asks for an accelerator",
    ),
    Replacement(
        "megatron.core.transformer.moe.moe_utils",
        "te_general_gemm",
        always(None),
        "undefined in 0.16.1 without transformer-engine, and asked for by the router",
        "0.16.1 is no longer supported",
    ),
    Replacement(
        "megatron.core.extensions.transformer_engine",
        "TELinear",
        always(NoTransformerEngineLinear),
        "a mock without transformer-engine; isinstance(..., TELinear) of 0.16.1's latent attention fails on it",
        "0.16.1 is no longer supported",
    ),
)

# Said to everyone without transformer-engine, Apex or CUDA, or about Megatron's own calls and defaults: nobody here can act
# on it. Message, category, module ("" for any).
SILENCED_WARNINGS: tuple[tuple[str, type[Warning], str], ...] = (
    (r"(Transformer Engine and Apex are|Apex is) not installed", UserWarning, ""),
    (r"When using async grad allreduce it is recommended .*CUDA_DEVICE_MAX_CONNECTIONS", UserWarning, ""),
    (r"full scope is deprecated. Use empty cuda_graph_", UserWarning, ""),
    (r"MimoModelConfig is experimental", UserWarning, ""),
    (r"The \.grad attribute of a Tensor that is not a leaf", UserWarning, r"megatron\.core\.optimizer"),
    (r"`torch\.distributed\.(reduce_scatter|all_gather_into)_tensor` is deprecated", FutureWarning, ""),
    (r"`load_state_dict` is deprecated", FutureWarning, r"megatron\.core\.dist_checkpointing"),
    (r"Please use DTensor instead and we are deprecating ShardedTensor", FutureWarning, r"torch\.distributed\."),
    (r"The argument order of load has been changed", UserWarning, r"torch\.distributed\.checkpoint"),
    (r"torch.distributed is disabled, unavailable", UserWarning, r"torch\.distributed\.checkpoint"),
    (r"The following imports from `dynamic_context.py` will be removed", DeprecationWarning, ""),
    (r"\s*The 'megatron.core.transformer.custom_layers.transformer_engine'\s+module is", DeprecationWarning, ""),
)
# The generator that Megatron watches is, on a CPU, the one that it just used.
SILENCED_LOGS: tuple[tuple[str, str], ...] = (("megatron.core.tensor_parallel.random", "CPU RNG state changed within GPU RNG context"),)


# ---- how the table is applied ---------------------------------------------------------------------------------------


class MegatronFinder(MetaPathFinder):
    """Finds what the other finders find, and has Megatron's modules adapted when they are loaded."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not in_megatron(fullname):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = MegatronLoader(spec.loader.name, spec.loader.path)
        return spec


class MegatronLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        if not has_accelerator():
            silence()
        super().exec_module(module)
        adapt(module)


def adapt(module: ModuleType) -> list[tuple[Any, Any]]:
    """Applies the tables to a module that has just run; returns what changed, as pairs of old and new."""
    table = REPAIRS if has_accelerator() else REPAIRS + REDIRECTIONS
    changes = []
    for row in table:
        if row.where == module.__name__:
            old = getattr(module, row.name, None)
            changes.append((old, row.make(old)))
            setattr(module, row.name, changes[-1][1])
    if not has_accelerator() and "torch" in vars(module):
        vars(module)["torch"] = torch_without_cuda()
    return changes


def rebind(modules: Iterable[ModuleType], changes: Iterable[tuple[Any, Any]]) -> None:
    """For modules that ran before the hook: names they imported from one another, and functions already compiled."""
    new = {id(before): after for before, after in changes if before is not None}
    for module in modules:
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
            for name, value in list(vars(owner).items()):
                if id(value) in new:
                    setattr(owner, name, new[id(value)])
                elif isinstance(value, FunctionType) and not has_accelerator():
                    setattr(owner, name, getattr(value, "_torchdynamo_orig_callable", value))


class StandIn(ModuleType):
    """A module in which some names mean something else."""

    def __init__(self, module: ModuleType, names: dict[str, Any]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names)
        self.__wrapped__ = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


@functools.cache
def torch_without_cuda() -> ModuleType:
    import torch

    def made_for(owner: Any) -> dict[str, Any]:
        where = "torch.Tensor" if owner is torch.Tensor else owner.__name__
        return {row.name: row.make(getattr(owner, row.name)) for row in REDIRECTIONS if row.where == where}

    for name, method in made_for(torch.Tensor).items():
        setattr(torch.Tensor, name, method)
    return StandIn(torch, {**made_for(torch), "cuda": StandIn(torch.cuda, made_for(torch.cuda))})


def silence() -> None:
    """Said before each module runs: pytest forgets filters between tests. Adding one that is there changes nothing."""
    for message, category, module in SILENCED_WARNINGS:
        warnings.filterwarnings("ignore", message, category, module)
    for logger, message in SILENCED_LOGS:
        logging.getLogger(logger).addFilter(is_not(message))


@functools.cache
def is_not(message: str) -> Callable[[logging.LogRecord], bool]:
    return lambda record: record.msg != message


# ---- the version ----------------------------------------------------------------------------------------------------


def check_version() -> None:
    advice = f"tested is {TESTED_VERSIONS}: pip install 'megatron-core{TESTED_VERSIONS}'"
    try:
        spec = find_spec(MEGATRON)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise VersionError(f"megatron-core is not installed; {advice}")
    folder = Path(spec.origin).parent
    version = read_version(folder)
    if not SpecifierSet(TESTED_VERSIONS).contains(version, prereleases=True):
        raise VersionError(f"megatron-core {version} (in {folder}) was found; {advice}")


def read_version(folder: Path) -> str:
    """The version of the code that will be imported; installed metadata may describe another copy (PYTHONPATH wins)."""
    values: dict[str, Any] = {}
    for statement in ast.parse((folder / "package_info.py").read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                values[name] = value
    return "{MAJOR}.{MINOR}.{PATCH}{PRE_RELEASE}".format_map(values)
