"""The judge as pytest: one test for each component of a distribution and each check that is asked of it."""

from __future__ import annotations

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loongforge_core.component import ComponentSpec
from loongforge_core.parallel.cpu import has_accelerator
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance.catalogue import Check
from loongforge_core.testing.conformance.judge import FOUND_SOMETHING, Result, checks_of, components_of, run_check
from loongforge_core.testing.conformance.subject import Subject

__all__ = ["plugin_tests"]


def plugin_tests(distribution: str) -> Callable[..., None]:
    """A parametrised test function, to be assigned to a name that pytest collects: `test_plugin = plugin_tests("my-plugin")`.

    Tests are called `encoder-my_encoder-token_counts`. What is not asked of a kind of component is not collected; a check that cannot be
    made is skipped with its reason. Where this process may use an accelerator, `loongforge check-plugin` runs them, which may not: all
    those of a component when the first of them is asked for. Raises InputError where no such plugin is installed.
    """
    import pytest

    registry = Registry.discover()
    cases = [(spec, check) for spec in components_of(distribution, registry) for check in checks_of(spec)]

    @functools.cache
    def subject(spec: ComponentSpec) -> Subject:
        folder = tempfile.TemporaryDirectory(prefix="loongforge_check_")
        atexit.register(folder.cleanup)
        return Subject(spec, registry, Path(folder.name))

    @functools.cache
    def results_of(spec: ComponentSpec) -> list[Result]:
        return results_of_command(distribution, spec)

    def test_plugin(component: ComponentSpec, check: Check) -> None:
        if has_accelerator():
            result = next(result for result in results_of(component) if result.check == check)
        else:
            result = run_check(check, subject(component))
        if result.status == "not applicable":
            pytest.skip(result.seen[0])
        if result.status == "finding":
            pytest.fail(str(result), pytrace=False)

    ids = [f"{spec.kind}-{spec.name}-{check.name}" for spec, check in cases]
    decorated: Any = pytest.mark.parametrize(("component", "check"), cases, ids=ids)(test_plugin)
    return decorated  # type: ignore[no-any-return]


def results_of_command(distribution: str, spec: ComponentSpec) -> list[Result]:
    """What `loongforge check-plugin` finds in a component. Raises RuntimeError with what it says where it does not come to an end."""
    command = [sys.executable, "-m", "loongforge_core", "check-plugin", distribution, "--component", spec.name, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode not in (0, FOUND_SOMETHING):
        raise RuntimeError(f"{' '.join(command[1:])} ended with {ended.returncode}: {ended.stderr}")
    return [Result.from_row(row, spec) for row in json.loads(ended.stdout) if row["kind"] == spec.kind]
