"""The Slurm script of the examples checks the configuration once, then starts the tasks; `srun` is a stand-in that shows its arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"
LAYOUT = ("parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2", "train.micro_batch_size=8")


def submitted(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run as on the first node of two with eight tasks each."""
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "activate").write_text(f'export PATH="{commands}:{Path(sys.executable).parent}:$PATH"\n')
    (commands / "srun").write_text('#!/bin/bash\necho "srun $*"\n')
    (commands / "srun").chmod(0o755)
    environment = {"SLURM_NTASKS": "16", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
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
