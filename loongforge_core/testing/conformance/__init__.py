"""The judge of plugins: what the rest of the system relies on in a component, tried one by one on a tiny size of it.

    from loongforge_core.testing.conformance import plugin_tests         # in the plugin's own tests: one test for each component and check

    test_plugin = plugin_tests("my-plugin")

`loongforge check-plugin my-plugin` does the same on the command line. `catalogue.py` lists every check by name, with what it asks,
what a finding means and how to mend it; `Processor.examples` and `ComponentConfig.tiny` are what an author may help it with.
Importing this package imports no torch: each check is loaded when it is run.
"""

from __future__ import annotations

from loongforge_core.testing.conformance.as_pytest import plugin_tests
from loongforge_core.testing.conformance.catalogue import CHECKS, Check
from loongforge_core.testing.conformance.judge import Result, components_of, judge

__all__ = ["CHECKS", "Check", "Result", "components_of", "judge", "plugin_tests"]
