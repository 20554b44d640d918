"""The plugin before the core's judge: one test for each promise that an encoder makes."""

from __future__ import annotations

from loongforge_core.testing.conformance import plugin_tests

test_plugin = plugin_tests("loongforge-sensor")
