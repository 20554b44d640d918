"""Commands that run a model, up to where torch is needed.

Everything that can be wrong in the configuration is said at once; then `model_commands` is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from loongforge_core.config.check import load_composition
from loongforge_core.errors import InputError
from loongforge_core.registry.registry import Registry

__all__ = ["config_dirs", "evaluate", "export_hf", "generate", "import_hf", "note", "train"]

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
    """Checks the composition, then runs the command of `model_commands` on it."""
    refuse_several_processes()
    registry = Registry.discover()
    overrides = [*args.overrides, *(() if needs_data else WITHOUT_DATA)]
    composition = load_composition(args.config, overrides, registry=registry, config_dirs=[Path(path) for path in args.config_dir])
    if sys.stderr.isatty():
        note(f"{composition.name}: loading torch and Megatron-Core ...")
    from loongforge_core.cli import model_commands

    status: int = getattr(model_commands, command)(args, registry, composition)
    return status


def refuse_several_processes() -> None:
    """Raises InputError where torchrun or srun has started several of these: each would be a whole run, in the same output_dir."""
    started = {"WORLD_SIZE": os.environ.get("WORLD_SIZE", "")}
    if "SLURM_PROCID" in os.environ:  # without it we are in a job, but not what srun starts
        started["SLURM_NTASKS"] = os.environ.get("SLURM_NTASKS", "")
    for name, number in started.items():
        if number.isdigit() and int(number) > 1:
            raise InputError(
                f"started as {number} processes ({name}={number}), but training over several is not there yet, and each would be a run "
                "of its own in the same output_dir: start this command once, without torchrun or srun"
            )


def config_dirs(args: argparse.Namespace) -> list[str]:
    """The `--config-dir` options as they were given."""
    return [text for folder in args.config_dir for text in ("--config-dir", folder)]


def note(text: str) -> None:
    """To the person at the terminal; standard output is for results."""
    print(text, file=sys.stderr)
