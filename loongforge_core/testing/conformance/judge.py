"""Runs checks on a component: each ends in nothing to say, in findings, or in a reason why it cannot be made."""

from __future__ import annotations

import importlib
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loongforge_core.component import ComponentSpec
from loongforge_core.errors import InputError, did_you_mean
from loongforge_core.registry.distributions import normalised
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance.catalogue import CHECKS, Check, check_named
from loongforge_core.testing.conformance.subject import NotApplicable, Subject

__all__ = ["Result", "checks_of", "components_of", "judge", "run_check"]

FOUND_SOMETHING = 1
"""Exit status of `loongforge check-plugin`, and 0 where there is no finding."""

CORE = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Result:
    """What one check came to."""

    spec: ComponentSpec
    check: Check
    status: Literal["ok", "finding", "not applicable"]
    seen: tuple[str, ...] = ()
    """Findings: what was seen, a sentence each. Not applicable: why."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any], spec: ComponentSpec) -> Result:
        return cls(spec, check_named(row["check"]), row["status"], tuple(row["seen"]))

    def to_row(self) -> dict[str, Any]:
        """For JSON."""
        check, spec = self.check, self.spec
        row = {"kind": spec.kind, "component": spec.name, "check": check.name, "status": self.status, "asks": check.asks}
        advice = {"means": check.means, "mend": check.mend} if self.status == "finding" else {}
        return {**row, "seen": list(self.seen), **advice}

    def __str__(self) -> str:
        who = f"{self.spec.kind} {self.spec.name}: {self.check.name}"
        if self.status != "finding":
            return "\n".join([f"{who}: {self.status}", *self.seen])
        seen = "\n".join(f"  seen:  {each}" for each in self.seen)
        return f"{who}\n  asked: {self.check.asks}\n{seen}\n  means: {self.check.means}\n  mend:  {self.check.mend}"


def components_of(distribution: str, registry: Registry) -> list[ComponentSpec]:
    """Those that an installed distribution publishes. Raises InputError, with the nearest name, where it is no plugin or a broken one."""
    wanted = normalised(distribution)
    for broken in registry.broken:
        if normalised(broken.distribution) == wanted:
            raise InputError(f"{broken}; `loongforge list` shows every broken plugin") from broken.exception
    found = [published for published in registry.components() if normalised(published.origin.distribution) == wanted]
    if not found:
        names = [published.origin.distribution for published in registry.components()]
        raise InputError(f"no installed plugin {distribution!r} publishes a component{did_you_mean(distribution, names)}")
    return [published.spec for published in found]


def checks_of(spec: ComponentSpec, checks: Sequence[Check] = CHECKS) -> list[Check]:
    """Those that are asked of a component of this kind."""
    return [check for check in checks if spec.kind in check.kinds]


def judge(spec: ComponentSpec, registry: Registry, checks: Sequence[Check] = CHECKS) -> Iterator[Result]:
    """The result of every check that is asked of a component of this kind."""
    with tempfile.TemporaryDirectory(prefix="loongforge_check_") as folder:
        subject = Subject(spec, registry, Path(folder))
        for check in checks_of(spec, checks):
            yield run_check(check, subject)


def run_check(check: Check, subject: Subject) -> Result:
    module, _, function = check.run.partition(":")
    run = getattr(importlib.import_module(module), function)
    try:
        seen = tuple(run(subject))
    except NotApplicable as reason:
        return Result(subject.spec, check, "not applicable", (str(reason),))
    except (Exception, SystemExit) as error:  # a stranger's component may do anything
        seen = (raised(error),)
    return Result(subject.spec, check, "finding" if seen else "ok", seen)


def raised(error: BaseException) -> str:
    """What an exception says, and the last line of the component's own that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(CORE)]
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    where = [f"{frame.filename}:{frame.lineno}" for frame in (own or frames)[-1:]]
    message = " ".join(str(error).split())
    return f"it raises {type(error).__name__}: {message[:600]}" + (f" ({where[0]})" if where else "")
