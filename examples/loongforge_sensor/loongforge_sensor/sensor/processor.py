"""A file -> a waveform: `.npy`, or `.csv` with one number a line. Imports no torch: it runs in data workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loongforge_core import Augmentation, DataError, ProcessedItem, Processor
from loongforge_sensor.sensor.config import SensorConfig

__all__ = ["SensorProcessor"]


class SensorProcessor(Processor[SensorConfig]):
    """Emits `values` `[length]` float32 of mean 0 and deviation 1; the size is (length,)."""

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        values = read(path)
        if values.ndim != 1 or values.size == 0:
            raise DataError(f"{path}: expected one row of numbers, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise DataError(f"{path}: not all values are finite numbers")
        deviation = values.std()
        normalised = (values - values.mean()) / (deviation if deviation > 0 else 1.0)
        return ProcessedItem({"values": normalised.astype(np.float32)}, (len(values),))


def read(path: Path) -> np.ndarray:
    """The numbers in the file, float64. Raises DataError naming the file."""
    try:
        if path.suffix == ".npy":
            values: np.ndarray = np.load(path, allow_pickle=False)
            return values.astype(np.float64, casting="same_kind")
        if path.suffix == ".csv":
            return np.loadtxt(path, ndmin=1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such waveform") from error
    except (OSError, EOFError, ValueError, TypeError) as error:  # what numpy raises for a damaged file, or one of another kind
        raise DataError(f"{path}: cannot read this waveform, is it truncated? {error}") from error
    raise DataError(f"{path}: expected a .npy or a .csv file")
