"""A data set's folder, written all or nothing, by whichever process is first."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from loongforge_core.errors import DataError

__all__ = ["write_whole"]


def write_whole(folder: Path, name: str, files: Sequence[str], write: Callable[[Path], None]) -> None:
    """Lets `write` fill a new folder, which then becomes `folder`; does nothing where all of `files` are in it already.

    Raises DataError when the folder holds something else. `name` is the data set's.
    """

    def is_complete() -> bool:
        return all((folder / file).exists() for file in files)

    if is_complete():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} holds something else; the {name} data set needs a new or an empty folder for {', '.join(files)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(unfinished)
        unfinished.chmod(0o755)
        os.replace(unfinished, folder)
    except OSError:
        if not is_complete():  # else another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
