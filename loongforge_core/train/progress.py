"""What a person sees of a run: a bar on a terminal, plain lines elsewhere. Imports no torch, so that it can begin before slow imports."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """A bar over the steps of a run, or a line every `log_interval` steps."""

    def __init__(self, *, steps: int, log_interval: int, doing: str = "starting", stream: TextIO | None = None) -> None:
        self.steps = steps
        self.log_interval = log_interval
        self.stream = stream or sys.stderr
        self.bar = tqdm(total=steps, desc=doing, file=self.stream, unit="step", dynamic_ncols=True) if self.stream.isatty() else None
        self.since = (0, time.monotonic())
        if self.bar is None:
            self.say(doing)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def doing(self, what: str) -> None:
        """Shown until the next one; a line of its own where there is no bar."""
        if self.bar is None:
            self.say(what)
        else:
            self.bar.set_description(what)

    def say(self, text: str) -> None:
        """Stays on the screen, above the bar."""
        if self.bar is None:
            print(text, file=self.stream, flush=True)
        else:
            self.bar.write(text, file=self.stream)

    def begin(self, step: int) -> None:
        """Training begins after `step` steps."""
        self.since = (step, time.monotonic())
        if self.bar is not None:
            self.bar.set_description("training")
            self.bar.n = self.bar.initial = step
            self.bar.unpause()

    def advance(self, step: int, loss: float | None) -> None:
        """`step` steps are done."""
        shown = "none" if loss is None else f"{loss:.4f}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {shown}", refresh=False)
            self.bar.update(1)
        elif step % self.log_interval == 0 or step == self.steps:
            before, then = self.since
            now = time.monotonic()
            self.say(f"step {step}/{self.steps}  loss {shown}  {(now - then) / max(1, step - before):.3f} s a step")
            self.since = (step, now)
