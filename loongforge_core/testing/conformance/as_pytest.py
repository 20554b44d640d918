"""The judge as pytest: one test for each component of a distribution and each check that is asked of it."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance.catalogue import Check
from loongforge_core.testing.conformance.judge import checks_of, components_of, run_check
from loongforge_core.testing.conformance.subject import Subject

__all__ = ["plugin_tests"]


def plugin_tests(distribution: str) -> Callable[..., None]:
    """A parametrised test function, to be assigned to a name that pytest collects: `test_plugin = plugin_tests("my-plugin")`.

    Tests are called `encoder-my_encoder-token_counts`. What is not asked of a kind of component is not collected; a check that cannot be
    made is skipped with its reason. Raises InputError where no such plugin is installed.
    """
    import pytest

    registry = Registry.discover()
    cases = [(spec, check) for spec in components_of(distribution, registry) for check in checks_of(spec)]

    @functools.cache
    def subject(spec: ComponentSpec) -> Subject:
        folder = tempfile.TemporaryDirectory(prefix="loongforge_check_")
        atexit.register(folder.cleanup)
        return Subject(spec, registry, Path(folder.name))

    def test_plugin(component: ComponentSpec, check: Check) -> None:
        result = run_check(check, subject(component))
        if result.status == "not applicable":
            pytest.skip(result.seen[0])
        if result.status == "finding":
            pytest.fail(str(result), pytrace=False)

    ids = [f"{spec.kind}-{spec.name}-{check.name}" for spec, check in cases]
    decorated: Any = pytest.mark.parametrize(("component", "check"), cases, ids=ids)(test_plugin)
    return decorated  # type: ignore[no-any-return]
