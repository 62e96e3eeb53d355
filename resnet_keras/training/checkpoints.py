"""Checkpoints: one file each, written whole or not at all; a run resumes from the newest sound one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.errors import reason
from resnet_keras.files import atomic_write

FOLDER = "checkpoints"
NOTES = "notes"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    notes: dict[str, Any]
    """All that is not an array: `rows`, `totals`, `epoch_seconds`."""


def save_checkpoint(
    folder: Path, step: int, arrays: Mapping[str, np.ndarray], notes: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint of a step into a run folder, and remove all but the newest `keep`."""
    path = folder / FOLDER / f"step-{step:09d}.npz"
    path.parent.mkdir(exist_ok=True)
    text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    with atomic_write(path) as beside, beside.open("wb") as file:
        np.savez(file, **{**arrays, NOTES: text})  # pyright: ignore[reportArgumentType]
    for old in checkpoints(folder)[keep:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first."""
    return sorted((folder / FOLDER).glob("step-*.npz"), reverse=True)


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest sound checkpoint of a run folder, and what is wrong with each newer one."""
    damaged = {}
    for path in checkpoints(folder):
        try:
            return read_checkpoint(path), damaged
        except Exception as error:  # a damaged archive shows itself in as many ways as it has parts
            damaged[path] = reason(error)
    return None, damaged


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Its zip archive has a checksum of each array, which reading compares."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return Checkpoint(path, arrays, json.loads(arrays.pop(NOTES).tobytes()))
