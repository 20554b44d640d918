"""Commands that run a model, up to where torch is needed.

Everything that can be wrong in the configuration is said at once; then `model_commands` is imported, which takes seconds. One process
runs the command, or `--nproc` forked from this one, or those that a launcher has started (`launched.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from loongforge_core.cli.launched import Place, launched
from loongforge_core.config.check import load_composition, missing_backends
from loongforge_core.config.composition import Composition
from loongforge_core.errors import ConfigError, InputError
from loongforge_core.registry.registry import Registry

__all__ = ["evaluate", "export_hf", "generate", "import_hf", "note", "physical_cores", "repeated_options", "train"]

WITHOUT_DATA = ("data.path=null", "data.prepare=null", "data.eval_path=null")
"""For commands that read no training data: it need not be on this machine."""


def train(args: argparse.Namespace) -> int:
    return run("train", args)


def evaluate(args: argparse.Namespace) -> int:
    return run("evaluate", args, needs_data=args.questions is None)


def generate(args: argparse.Namespace) -> int:
    return run("generate", args, needs_data=False)


def import_hf(args: argparse.Namespace) -> int:
    return run("import_hf", args, needs_data=False)


def export_hf(args: argparse.Namespace) -> int:
    return run("export_hf", args, needs_data=False)


def run(command: str, args: argparse.Namespace, *, needs_data: bool = True) -> int:
    """Checks the composition, then runs the command of `model_commands` on it, in as many processes as there shall be."""
    place = launched(os.environ)
    if place is not None:
        return run_launched(command, args, place, needs_data=needs_data)
    number = args.nproc or 1
    registry = Registry.discover(without=args.without)
    composition = checked(command, args, registry, world_size=number, needs_data=needs_data)
    if sys.stderr.isatty():
        note(f"{composition.name}: loading torch and Megatron-Core ...")
    if number > 1:
        prepare_to_fork(number)
    with loading():
        from loongforge_core.cli import model_commands, processes

    work = partial(getattr(model_commands, command), args, registry, composition)
    return processes.alone(work, composition) if number == 1 else processes.forked(work, composition, number)


def run_launched(command: str, args: argparse.Namespace, place: Place, *, needs_data: bool) -> int:
    """This process's part of a job. The ranks meet before they check anything, so that one of them can speak for all."""
    if args.nproc is not None:
        if place.rank:
            return InputError.exit_status
        raise InputError(
            f"--nproc {args.nproc} starts processes, but {place.launcher} has started {place.world_size} already: leave it out"
        )
    prepare_rank(num_threads=1)  # as torchrun has it
    with loading():
        from loongforge_core.cli import processes

    with processes.joined(place, debug=getattr(args, "debug", False)) as job:
        registry = Registry.discover(without=args.without)
        job.require_same_plugins(registry)
        composition = checked(command, args, registry, world_size=place.world_size, needs_data=needs_data)
        with loading():
            from loongforge_core.cli import model_commands

        return job.run(partial(getattr(model_commands, command), args, registry, composition), composition)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Imports what stays: to look for garbage in it meanwhile would be a sixth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def checked(command: str, args: argparse.Namespace, registry: Registry, *, world_size: int, needs_data: bool) -> Composition:
    """The composition, in a layout that fits the number of processes. Raises ConfigError with all that is wrong."""
    overrides = [*args.overrides, *(() if needs_data else WITHOUT_DATA)]
    load = partial(
        load_composition,
        args.config,
        overrides,
        registry=registry,
        config_dirs=[Path(path) for path in args.config_dir],
        purpose="train" if command == "train" else "other",
    )
    try:
        composition = load(world_size=world_size)
    except ConfigError as error:
        if world_size > 1:
            raise
        load(world_size=None)  # raises what is wrong whatever the number of processes
        hint = ". This is one process: --nproc N starts several on this machine, torchrun or srun on many"
        raise ConfigError([*error.issues[:-1], replace(error.issues[-1], message=error.issues[-1].message + hint)]) from error
    if missing := missing_backends(composition):
        raise ConfigError(missing)
    return composition


def prepare_to_fork(number: int) -> None:
    """Before torch and numpy are loaded: the ranks share the cores, and no thread is there yet, because none survives."""
    prepare_rank(num_threads=max(1, physical_cores() // number))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # CUDA does not survive either, once it was asked whether it is there; NVML does.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def prepare_rank(*, num_threads: int) -> None:
    """What is read when torch is loaded, and when CUDA starts."""
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
    # Megatron asks for it: tensor-parallel communication and computation overlap only where kernels start in their order.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def physical_cores() -> int:
    """Those that this process may use. Two threads of one core share what matrix products need."""
    try:
        mine = os.sched_getaffinity(0)
        siblings = {Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in mine}
    except (AttributeError, OSError):  # another system than Linux
        return os.cpu_count() or 1
    return len(siblings)


def repeated_options(args: argparse.Namespace) -> list[str]:
    """The `--config-dir` and `--without` options as they were given."""
    options = [*(("--config-dir", folder) for folder in args.config_dir), *(("--without", plugin) for plugin in args.without)]
    return [text for option in options for text in option]


def note(text: str) -> None:
    """To the person at the terminal; standard output is for results."""
    print(text, file=sys.stderr)
