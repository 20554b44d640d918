"""`check-plugin`: what the conformance kit finds in the components of an installed plugin.

It compares on the CPU, in float64 where it can and on as many ranks as a layout has, whatever accelerators there are.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Iterator, Sequence

from loongforge_core.cli.report import print_table
from loongforge_core.component import ComponentSpec
from loongforge_core.errors import InputError, did_you_mean
from loongforge_core.parallel.cpu import hide_accelerators
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance import CHECKS, Check, Result, components_of, judge
from loongforge_core.testing.conformance.catalogue import check_named
from loongforge_core.testing.conformance.judge import FOUND_SOMETHING

__all__ = ["check_plugin"]

CELLS = {"ok": "ok", "finding": "FINDING", "not applicable": "-"}


def check_plugin(args: argparse.Namespace) -> int:
    """Every check of every component; 1 where there is a finding."""
    hide_accelerators()
    registry = Registry.discover(without=args.without)
    specs = chosen(components_of(args.distribution, registry), args.component)
    checks = [check_named(name) for name in args.check] or list(CHECKS)
    results: list[Result] = []
    for spec in specs:
        running = judge(spec, registry, checks)
        while result := quietly(running):
            if not args.json:
                print(f"{spec.kind} {spec.name}: {result.check.name} ... {result.status}", flush=True)
            results.append(result)
    if args.json:
        print(json.dumps([result.to_row() for result in results], indent=2))
    else:
        print_results(specs, checks, results)
    return FOUND_SOMETHING if any(result.status == "finding" for result in results) else 0


def quietly(running: Iterator[Result]) -> Result | None:
    """The next result, without the warnings and progress bars of what is tried."""
    with contextlib.redirect_stderr(io.StringIO()):
        return next(running, None)


def chosen(specs: Sequence[ComponentSpec], names: Sequence[str]) -> list[ComponentSpec]:
    for name in names:
        if name not in [spec.name for spec in specs]:
            raise InputError(f"the plugin publishes no component {name!r}{did_you_mean(name, [spec.name for spec in specs])}")
    return [spec for spec in specs if not names or spec.name in names]


def print_results(specs: Sequence[ComponentSpec], checks: Sequence[Check], results: Sequence[Result]) -> None:
    """A table, every finding, and what was not checked and why."""
    cells = {(result.check.name, result.spec): CELLS[result.status] for result in results}
    rows = [[check.name, *(cells.get((check.name, spec), "") for spec in specs)] for check in checks]
    print()
    print_table(["CHECK", *(f"{spec.kind} {spec.name}" for spec in specs)], [row for row in rows if any(row[1:])])
    for result in results:
        if result.status == "finding":
            print(f"\n{result}")
    left_out = [result for result in results if result.status == "not applicable"]
    if left_out:
        print("\nnot checked:")
        for result in left_out:
            print(f"  {result.spec.name}: {result.check.name}: {result.seen[0]}")
    counts = {status: sum(result.status == status for result in results) for status in CELLS}
    print(f"\n{counts['ok']} ok, {counts['finding']} with findings, {counts['not applicable']} not applicable")
