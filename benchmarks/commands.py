"""How long the commands that people type while they edit YAML take, against a bare start of Python."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.paired import time_in_turn

COMMANDS = (("list", ["list"], "0.3 s"), ("validate digits", ["validate", "digits"], "1 s"))


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main(*, runs: int = 7) -> None:
    print("Commands, ours : python -c pass")
    for name, arguments, goal in COMMANDS:
        pairs = time_in_turn(
            lambda arguments=arguments: run("-m", "loongforge_core", *arguments), lambda: run("-c", "pass"), runs=runs, warm_up=1
        )  # type: ignore[misc]
        print(f"{name:34} {pairs}   goal {goal}", flush=True)


if __name__ == "__main__":
    main()
