"""What a launcher left in the environment: which rank this process is, of how many, and where they meet. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from loongforge_core.errors import InputError

__all__ = ["Place", "launched"]

FIRST_PORT, NUM_PORTS = 20_000, 12_000
"""Below those that Linux gives away itself, from 32768."""
PORTS_OF_A_JOB = 100
"""So that jobs that follow one another have none in common."""
DEFAULT_PORT = 29_500
"""As torch has it."""


@dataclass(frozen=True)
class Place:
    """One of several processes."""

    rank: int
    world_size: int
    local_rank: int
    """Among the ranks of this machine."""
    address: str
    """Of rank 0."""
    port: int
    launcher: str
    """What started it, and how that shows: for messages."""


def launched(environment: Mapping[str, str]) -> Place | None:
    """This process's place among those that torchrun, srun or their like started; None where there are no others.

    Raises InputError for a number that is none, and where nothing says where to meet.
    """
    if "RANK" in environment and number(environment, "WORLD_SIZE", 1) > 1:
        return of_torchrun(environment)
    if "SLURM_PROCID" in environment and number(environment, "SLURM_NTASKS", 1) > 1 and not is_batch_script(environment):
        return of_srun(environment)
    return None


def of_torchrun(environment: Mapping[str, str]) -> Place:
    """The variables that torchrun sets, as do other launchers after it."""
    world_size = number(environment, "WORLD_SIZE")
    if not environment.get("MASTER_ADDR"):
        raise InputError(f"WORLD_SIZE={world_size} says that there are more processes, and nothing where rank 0 is: set MASTER_ADDR")
    return Place(
        rank=number(environment, "RANK"),
        world_size=world_size,
        local_rank=number(environment, "LOCAL_RANK", number(environment, "RANK")),
        address=environment["MASTER_ADDR"],
        port=number(environment, "MASTER_PORT", DEFAULT_PORT),
        launcher=f"torchrun or its like (WORLD_SIZE={world_size})",
    )


def of_srun(environment: Mapping[str, str]) -> Place:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    address = environment.get("MASTER_ADDR") or first_host(nodes)
    world_size = number(environment, "SLURM_NTASKS")
    if not address:
        raise InputError(f"SLURM_NTASKS={world_size}, and neither SLURM_JOB_NODELIST nor MASTER_ADDR says where rank 0 is")
    rank = number(environment, "SLURM_PROCID")
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=number(environment, "SLURM_LOCALID", rank),
        address=address,
        port=number(environment, "MASTER_PORT", port_of(environment)),
        launcher=f"srun (SLURM_NTASKS={world_size})",
    )


def is_batch_script(environment: Mapping[str, str]) -> bool:
    """Slurm numbers the script of `sbatch` like task 0, but the other tasks are there only within it, where it calls `srun`."""
    return environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment


def first_host(nodes: str) -> str:
    """`gpu[007-009,012]-ib,login1` -> `gpu007-ib`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group()) if first else ""


def port_of(environment: Mapping[str, str]) -> int:
    """The same for all tasks of a step, and another one for a job or a step beside it, which may share the node."""
    texts = (environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    job, step = (int(text) if text.isdecimal() else 0 for text in texts)
    return FIRST_PORT + (job * PORTS_OF_A_JOB + step) % NUM_PORTS


def number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text!r}; expected a number")
    return int(text)
