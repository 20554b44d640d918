"""What torchrun, srun and their like leave in the environment."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from loongforge_core.cli.launched import Place, first_host, launched
from loongforge_core.cli.main import main
from loongforge_core.errors import InputError
from loongforge_core.parallel import launch

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29400"}
SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "123456"}


def place(environment: dict[str, str]) -> Place:
    found = launched(environment)
    assert found is not None
    return found


def test_torchrun() -> None:
    found = place(TORCHRUN)
    assert (found.rank, found.world_size, found.local_rank, found.address, found.port) == (5, 8, 1, "node0", 29400)


def test_srun() -> None:
    found = place(SRUN)
    assert (found.rank, found.world_size, found.local_rank, found.address) == (5, 8, 1, "gpu07")
    assert found.port == place({**SRUN, "SLURM_PROCID": "0"}).port
    assert 20_000 <= found.port < 32_000
    beside = [{**SRUN, "SLURM_JOB_ID": str(123456 + job), "SLURM_STEP_ID": str(step)} for job in range(100) for step in range(100)]
    assert len({place(environment).port for environment in beside}) == len(beside)


def test_an_address_that_is_there_already_wins() -> None:
    found = place({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (found.address, found.port) == ("10.0.0.1", 1234)


def test_torchrun_within_a_job_of_slurm() -> None:
    assert place({**SRUN, **TORCHRUN, "RANK": "3"}).rank == 3


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "here"},
        {**SRUN, "SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"},  # a shell of salloc
        {**SRUN, "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},  # the script of sbatch, around srun
    ],
)
def test_one_process_alone(environment: dict[str, str]) -> None:
    assert launched(environment) is None


def test_srun_within_the_script_of_sbatch() -> None:
    assert place({**SRUN, "ENVIRONMENT": "BATCH", "SLURM_STEP_ID": "0"}).rank == 5


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node3", "node3"),
        ("node3,node4", "node3"),
        ("gpu[007-009,012]-ib,login1", "gpu007-ib"),
        ("gpu[12]", "gpu12"),
        ("rack[1-2]n[3,5]", "rack1n3"),
        ("a,b[1-2]", "a"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TORCHRUN, "RANK": "first"}, "RANK is 'first'; expected a number"),
        ({name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}, "MASTER_ADDR"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_JOB_NODELIST"}, "SLURM_JOB_NODELIST"),
    ],
)
def test_what_is_missing_or_wrong_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        launched(environment)


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_nproc_beside_a_launcher(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "digits", "--nproc", "2"]) == 2
    assert capsys.readouterr().err == "", "rank 0 says it"
    monkeypatch.setenv(next(iter(environment)), "0")
    assert main(["train", "digits", "--nproc", "2"]) == 2
    assert "has started 8 already: leave it out" in capsys.readouterr().err


def test_a_rank_that_does_not_find_the_others_says_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "MEETING_TIMEOUT", timedelta(seconds=1))
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("localhost", 0))
        port = nobody.getsockname()[1]
        for name, value in {**TORCHRUN, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        assert main(["train", "digits"]) == 1
    assert f"rank 5 of 8 did not find the others at localhost:{port}" in capsys.readouterr().err
