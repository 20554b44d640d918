"""Commands forked from a process that has loaded torch and Megatron-Core, which takes a command by itself five seconds.

Each is a process in a session of its own, and runs `main` with its own arguments, environment, path and output, as `python -m
loongforge_core` does. The process that they are forked from ends with the one that asked for it.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from tempfile import TemporaryDirectory

LOADED = ("loongforge_core.parallel.launch", "loongforge_core.train.loop", "loongforge_core.cli.run", "loongforge_core.cli.main")


class Warm:
    """A command that was started: what `subprocess.Popen` has of it."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder = TemporaryDirectory()
        self.returncode: int | None = None
        server().send(([*arguments], dict(environment), self.folder.name))
        self.pid: int = server().recv()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it has written, when it has ended."""
        server().send(self.pid)
        in_time = server().poll(timeout)
        if not in_time:
            os.killpg(self.pid, signal.SIGKILL)
        self.returncode = server().recv()
        out, err = ((Path(self.folder.name) / name).read_text() for name in ("out", "err"))
        self.folder.cleanup()
        assert in_time, f"not ended in {timeout} s; it wrote {err}"
        return out, err


@functools.cache
def server() -> Connection:
    """One for all commands of this process."""
    ours, theirs = Pipe()
    subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    return ours


# ---- in the process that commands are forked from


def serve(requests: Connection) -> None:
    for name in LOADED:
        importlib.import_module(name)
    sys.modules["loongforge_core.parallel.launch"].load_for_all()
    running: set[int] = set()
    while True:
        try:
            request = requests.recv()
        except EOFError:
            break
        if isinstance(request, int):
            requests.send(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]))
            running.discard(request)
        else:
            process = os.fork() or run(*request)
            running.add(process)
            requests.send(process)
    for process in running:
        os.killpg(process, signal.SIGKILL)


def run(arguments: list[str], environment: dict[str, str], folder: str) -> int:
    """Does not return."""
    status = 1
    try:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(environment)
        path = environment["PYTHONPATH"].split(os.pathsep)
        sys.path[:] = ["", *path, *(entry for entry in sys.path[1:] if entry not in path)]
        sys.argv = ["loongforge", *arguments]
        status = sys.modules["loongforge_core.cli.main"].main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
