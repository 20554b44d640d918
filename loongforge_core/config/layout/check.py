"""Notes everything that is wrong with a layout, each with the nearest valid value where there is one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from loongforge_core.config.composition import Slot
from loongforge_core.config.layout.job import PROCESSES, Job, Problem, Purpose
from loongforge_core.config.layout.rules import RULES, batch, processes
from loongforge_core.config.sentences import Findings
from loongforge_core.config.settings import RunSettings

__all__ = ["check_layout"]

RuleAndKey = tuple[str, str]


def check_layout(
    run: RunSettings,
    slots: Mapping[str, Slot],
    world_size: int | None,
    findings: Findings,
    *,
    filled: Collection[str] = (),
    purpose: Purpose = "train",
) -> None:
    """Notes what is wrong. `world_size` None: how many processes there will be is not known.

    `filled` are the names of all slots where some are not in `slots` because they are wrong themselves.
    """
    job = Job(run, slots, frozenset(filled) | frozenset(slots), world_size, purpose)
    found = problems(job)
    for key in dict.fromkeys(problem.key for problem in found.values()):
        together = [problem for problem in found.values() if problem.key == key]
        findings.add(key, "; ".join(problem.message for problem in together) + ways_out(job, found, key))


def problems(job: Job) -> dict[RuleAndKey, Problem]:
    return {(rule.__name__, problem.key): problem for rule in RULES for problem in rule(job)}


def ways_out(job: Job, found: Mapping[RuleAndKey, Problem], key: str) -> str:
    """`; nearest valid: 2, or KEY 3`: values that mend everything that is wrong with the key."""
    others = {name for name, problem in found.items() if problem.key != key}
    tried: dict[str, Iterable[int]] = {}
    for problem in found.values():
        if problem.key == key:
            tried = {**problem.fixes, **tried}
    tolerated = {processes.__name__, batch.__name__} - {rule for rule, _ in found.keys() - others}
    values = {fix: nearest(job, fix, candidates, others, tolerated) for fix, candidates in tried.items()}
    named = [name_value(fix, value, key) for fix, value in values.items() if value is not None]
    return f"; nearest valid: {', or '.join(named)}" if named else ""


def nearest(job: Job, key: str, candidates: Iterable[int], others: Collection[RuleAndKey], tolerated: Collection[str]) -> int | None:
    """The first that leaves nothing wrong but what is wrong elsewhere; else the first that breaks only rules that are tolerated."""
    second_best = None
    for value in candidates:
        new = {rule for rule, problem_key in problems(job.changed(key, value)).keys() - others}
        if not new:
            return value
        if second_best is None and new <= set(tolerated):
            second_best = value
    return second_best


def name_value(fix: str, value: int, key: str) -> str:
    if fix == PROCESSES:
        return f"{value} processes"
    return str(value) if fix == key else f"{fix} {value}"
