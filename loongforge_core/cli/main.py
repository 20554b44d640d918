"""`loongforge`: arguments, dispatch and exit status. What a command needs is imported when it is called.

Exit status: 0 done, 1 failed while running, 2 the user's input is wrong (one readable message), 130 interrupted; 143 and 138: told to end
by SIGTERM or SIGUSR1, which `train` does when it has saved.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from loongforge_core.cli.report import message_of
from loongforge_core.errors import LoongForgeError

__all__ = ["main"]

INTERRUPTED = 130

KINDS = ("encoder", "projector", "backbone", "recipe", "dataset", "composition")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    try:
        args = parse(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # argparse has said what is wrong, or shown the help
        return int(stop.code or 0)
    debug: bool = args.debug
    # Read when torch is imported. Its threads otherwise wait for each other by spinning, and a step takes ten times as long where another
    # process wants the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        module, _, function = args.command.partition(":")
        status = getattr(importlib.import_module(module), function)(args)
        sys.stdout.flush()
        return int(status or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `loongforge list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LoongForgeError as error:
        print(message_of(error, debug=debug), file=sys.stderr)
        return error.exit_status


# --------------------------------------------------------------------------------------------------------------- arguments


def parse(argv: list[str]) -> argparse.Namespace:
    """Overrides may stand anywhere among the options, which argparse alone does not allow."""
    parser = whole_parser()
    args, rest = parser.parse_known_args(argv)
    options = [text for text in rest if text.startswith("-")]
    if options or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(options or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    args.debug = getattr(args, "debug", False)
    return args


def whole_parser() -> argparse.ArgumentParser:
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    plugins = argparse.ArgumentParser(add_help=False)
    plugins.add_argument(
        "--without", action="append", default=[], metavar="DIST", help="leave this installed plugin out; may be given again"
    )
    parser = argparse.ArgumentParser(
        prog="loongforge",
        description="Snap-together multimodal models on Megatron-Core.",
        parents=[debug],
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, target: str, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description, parents=[debug, plugins], allow_abbrev=False)
        added.set_defaults(command=f"loongforge_core.cli.{target}")
        return added

    listing = command("list", "inspect:list_published", "components, compositions and data sets of the installed plugins")
    listing.add_argument("--kind", choices=KINDS)
    listing.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    showing = command("show", "show:show", "one component or data set, or one published YAML file with everything it draws on")
    showing.add_argument("name", metavar="NAME")
    showing.add_argument("--json", action="store_true")
    showing.add_argument("--parameters", action="store_true", help="count the parameters of every published size; takes seconds")
    validating = command("validate", "inspect:validate", "every check that needs no model")
    add_config(validating)
    validating.add_argument("--world-size", type=positive, metavar="N", help="processes that the layout must fit")
    copying = command("copy-configs", "inspect:copy_configs", "write the plugins' YAML out, to read and edit")
    copying.add_argument("folder", metavar="DIR")
    checking = command("check-plugin", "check_plugin:check_plugin", "try everything that core relies on in the components of a plugin")
    checking.add_argument("distribution", metavar="DIST", help="an installed plugin, as pip calls it")
    checking.add_argument("--component", action="append", default=[], metavar="NAME", help="only this one; may be given again")
    checking.add_argument("--check", action="append", default=[], metavar="NAME", help="only this one; may be given again")
    checking.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    describing = command("schema", "schema:schema", "a JSON schema of the installed plugins, by which an editor completes and checks YAML")
    describing.add_argument("--output", metavar="F", help="the file to write, and how an editor is told of it; default: print it")
    beginning = command("new-plugin", "new_plugin:new_plugin", "begin a plugin of your own, which trains and tests itself at once")
    beginning.add_argument("name", metavar="NAME", help="of the distribution; the component has the same, without loongforge_ before it")
    beginning.add_argument("--kind", choices=KINDS[:4], required=True)
    beginning.add_argument("--modality", metavar="M", help="what an encoder encodes; any name (default: image)")
    beginning.add_argument("--output", metavar="DIR", help="default: NAME")
    add_run_commands(command)
    return parser


def add_run_commands(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Commands that need torch; `cli/run.py` implements them."""
    add_run(command("train", "run:train", "train; the same command again resumes"))
    evaluating = command("evaluate", "run:evaluate", "exact match on a file of questions")
    add_run(evaluating)
    evaluating.add_argument("--checkpoint", metavar="DIR", help="or `best`, of train.eval_interval; default: the last one in output_dir")
    evaluating.add_argument("--questions", metavar="FILE", help="default: data.eval_path")
    generating = command("generate", "run:generate", "the answer to a prompt")
    add_run(generating)
    generating.add_argument("--prompt", required=True, metavar="TEXT")
    generating.add_argument("--item", action="append", default=[], metavar="MODALITY=PATH", help="an image, say; may be given again")
    generating.add_argument("--checkpoint", metavar="DIR", help="or `best`, of train.eval_interval; default: the last one in output_dir")
    importing = command("import-hf", "run:import_hf", "a Hugging Face folder becomes a checkpoint")
    add_run(importing)
    importing.add_argument("--folder", required=True, metavar="HF")
    importing.add_argument("--output", required=True, metavar="DIR")
    exporting = command("export-hf", "run:export_hf", "a checkpoint becomes a Hugging Face folder")
    add_run(exporting)
    exporting.add_argument("--checkpoint", metavar="DIR", help="or `best`, of train.eval_interval; default: the last one in output_dir")
    exporting.add_argument("--output", required=True, metavar="DIR")


def add_run(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--nproc",
        type=positive,
        metavar="N",
        help="run as N processes on this machine, which share the model as `parallel` says; "
        "on several machines start this command with torchrun or srun instead (default: 1)",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="path of a YAML file, or the name of a published composition")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.lr=1e-4 or image_encoder@model.image_encoder=NAME")
    parser.add_argument("--config-dir", action="append", default=[], metavar="DIR", help="a folder of YAML to draw on; may be given again")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
