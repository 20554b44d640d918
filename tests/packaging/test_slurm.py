"""The Slurm script of the examples checks the configuration once, then starts the tasks; Slurm's commands are stand-ins that show their
arguments."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"
LAYOUT = ("parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2", "train.micro_batch_size=8")


def submitted(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run as on the first node of two with eight tasks each, which end with `status`."""
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True, exist_ok=True)
    (commands / "activate").write_text(f'export PATH="{commands}:{Path(sys.executable).parent}:$PATH"\n')
    for name, exit_status in (("srun", status), ("scontrol", 0)):
        (commands / name).write_text(f'#!/bin/bash\necho "{name} $*"\nexit {exit_status}\n')
        (commands / name).chmod(0o755)
    environment = {"SLURM_NTASKS": "16", "SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(["bash", SCRIPT, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_tasks_get_the_command_that_was_checked(tmp_path: Path) -> None:
    done = submitted(tmp_path, "digits", *LAYOUT)
    assert done.returncode == 0, done.stderr
    assert "16 processes = 4 copies of the model x tensor 2 x pipeline 2" in done.stdout
    assert done.stdout.splitlines()[-1] == f"srun --kill-on-bad-exit=1 loongforge train digits {' '.join(LAYOUT)}"


def test_no_task_is_started_for_what_cannot_be_run(tmp_path: Path) -> None:
    done = submitted(tmp_path, "digits", *LAYOUT, "parallel.tensor_model_parallel_size=3")
    assert done.returncode == 2
    assert "num_attention_heads 4 does not divide by 3" in done.stderr
    assert "srun" not in done.stdout


@pytest.mark.parametrize(("status", "said"), [(128 + signal.SIGUSR1, ["scontrol requeue 7"]), (128 + signal.SIGTERM, []), (1, [])])
def test_a_job_whose_time_is_up_goes_into_the_queue_again_and_no_other(tmp_path: Path, status: int, said: list[str]) -> None:
    checks = tmp_path / ".venv" / "bin" / "loongforge"  # a stand-in that finds nothing wrong
    checks.parent.mkdir(parents=True)
    checks.write_text("#!/bin/bash\n")
    checks.chmod(0o755)
    done = submitted(tmp_path, "digits", status=status)
    assert (done.returncode, done.stdout.splitlines()[1:]) == (status, said), done.stderr
