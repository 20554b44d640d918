"""Notes everything that is wrong with a layout, each with the nearest valid value where there is one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from loongforge_core.config.composition import Slot
from loongforge_core.config.layout_rules import GLOBAL_BATCH, MICRO_BATCH, PROCESSES, RULES, Job, Problem
from loongforge_core.config.sentences import Findings
from loongforge_core.config.settings import RunSettings

__all__ = ["check_layout"]


def check_layout(
    run: RunSettings, slots: Mapping[str, Slot], world_size: int | None, findings: Findings, *, filled: Collection[str] = ()
) -> None:
    """Notes what is wrong. `world_size` None: how many processes there will be is not known.

    `filled` are the names of all slots where some are not in `slots` because they are wrong themselves.
    """
    job = Job(run, slots, frozenset(filled) | frozenset(slots), world_size)
    found = problems(job)
    for key in dict.fromkeys(problem.key for problem in found.values()):
        together = [problem for problem in found.values() if problem.key == key]
        findings.add(key, "; ".join(problem.message for problem in together) + ways_out(job, found, key))


def problems(job: Job) -> dict[tuple[str, str], Problem]:
    """By rule and key."""
    return {(rule.__name__, problem.key): problem for rule in RULES for problem in rule(job)}


def ways_out(job: Job, found: Mapping[tuple[str, str], Problem], key: str) -> str:
    """`; nearest valid: 2, or KEY 3`: values that mend everything that is wrong with the key."""
    others = {name for name, problem in found.items() if problem.key != key}
    tried: dict[str, Iterable[int]] = {}
    for problem in found.values():
        if problem.key == key:
            tried = {**problem.fixes, **tried}
    values = {fix: nearest(job, fix, candidates, others) for fix, candidates in tried.items()}
    named = [name_value(fix, value, key) for fix, value in values.items() if value is not None]
    return f"; nearest valid: {', or '.join(named)}" if named else ""


def nearest(job: Job, key: str, candidates: Iterable[int], others: Collection[tuple[str, str]]) -> int | None:
    """The first that leaves nothing wrong but what is wrong elsewhere; else the first whose new trouble is only with the batch."""
    second_best = None
    for value in candidates:
        new = {name: problem for name, problem in problems(job.changed(key, value)).items() if name not in others}
        if not new:
            return value
        if second_best is None and all(problem.key == GLOBAL_BATCH for problem in new.values()):
            second_best = value
    return second_best if key not in (GLOBAL_BATCH, MICRO_BATCH) else None


def name_value(fix: str, value: int, key: str) -> str:
    if fix == PROCESSES:
        return f"{value} processes"
    return str(value) if fix == key else f"{fix} {value}"
