"""Opening a million lines of conversations: the first time, when it is found where they begin, and after; against `wc -l` on the same file.

And reading lines in shuffled order, against reading the same bytes from a file that is held open; and what the order of 100 million costs.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.memory import peak_growth
from benchmarks.paired import time_in_turn
from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.lines import open_lines
from loongforge_core.data.order import epoch_order

NUM_LINES = 1_000_000
MANY = 100_000_000
ROWS = 2000


def write(path: Path, num_lines: int) -> None:
    """Short questions and longer ones, 420 bytes on average."""
    words = ["the", "heron", "stands", "in", "shallow", "water", "and", "waits", "for", "a", "fish"]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, random.integers(5, 110))) for _ in range(500)]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[:40]}], "images": []}) + "\n"
        for text in texts
    ]
    block = "".join(lines)
    with path.open("w") as file:
        for _ in range(num_lines // len(lines)):
            file.write(block)


def opened(path: Path, *, anew: bool) -> int:
    if anew:
        path.with_name(f"{path.name}.index").unlink(missing_ok=True)
    return len(ConversationFiles([path], ["image"]))


def read_open(path: Path, starts: list[tuple[int, int]]) -> None:
    with path.open("rb") as file:
        for start, length in starts:
            file.seek(start)
            json.loads(file.read(length))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(*, runs: int = 5) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "train.jsonl"
        write(path, NUM_LINES)
        size = path.stat().st_size
        print(f"{NUM_LINES:,} conversations, {size / 1e6:.0f} MB, ours : wc -l")

        def count() -> None:
            subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)

        count()  # the file is in memory now
        for name, anew in (("open the first time", True), ("open again", False)):
            pairs = time_in_turn(lambda anew=anew: opened(path, anew=anew), count, runs=runs)  # type: ignore[misc]
            growth = peak_growth(lambda anew=anew: opened(path, anew=anew))  # type: ignore[misc]
            print(f"{name:34} {pairs}   peak of memory {growth / 1e6:.0f} MB, {growth / size:.3f} of the file", flush=True)

        lines = open_lines(path)
        files = ConversationFiles([path], ["image"])
        order = epoch_order(NUM_LINES, [0, 1, 0])
        chosen = [int(order[place]) for place in range(ROWS)]
        places = [(int(lines.starts[line]), int(lines.starts[line + 1] - lines.starts[line])) for line in chosen]
        print(f"{ROWS} lines in shuffled order, ours : seek, read and json.loads in a file held open")
        pairs = time_in_turn(lambda: [files[line] for line in chosen], lambda: read_open(path, places), runs=runs)
        print(f"{'read and parsed':34} {pairs}", flush=True)

    print(f"The order of {MANY:,} samples")
    growth = peak_growth(lambda: print(f"{'a place of it':34} {seconds(lambda: look_up(MANY)) / ROWS * 1e6:.0f} us", end=""))
    print(f"   peak of memory {growth / 1e6:.1f} MB")


def look_up(size: int) -> None:
    order = epoch_order(size, [0, 1, 0])
    for place in range(ROWS):
        order[place]


if __name__ == "__main__":
    main()
