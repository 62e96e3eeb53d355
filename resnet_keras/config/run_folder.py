"""Run folders: their files, and the lock that keeps one for one process. Standard library only."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import TrainConfig, differences
from resnet_keras.errors import UsageError
from resnet_keras.files import writing_to

CONFIG, MODEL, HISTORY, METRICS, REPORT = "config.json", "model.keras", "metrics.csv", "metrics.json", "report.html"
BEST = Path("checkpoints", "best.keras")
LOGS = "tensorboard"
PUBLISHED = "resnet_keras"
"""What the `config.json` of a published network has of ours; else it is as timm reads it."""
LOCK = ".lock"


def new_folder_name(name: str) -> Path:
    """A folder in `runs/` that does not exist yet."""
    wanted = folder = Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    number = 2
    while folder.exists():  # two runs in one second
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def check_run_folder(folder: Path, config: TrainConfig) -> bool:
    """Whether a folder has a run of this config, finished or not; False if it is empty or does not exist.

    Raises `UsageError` if it has anything else, or a run of another config.
    """
    with writing_to(folder):
        there = [child for child in folder.iterdir() if not child.name.startswith(".")] if folder.exists() else []
    if not there:
        return False
    began = run_config(folder)
    if began is None:
        raise UsageError(f"run folder {folder} is not empty; give another --run-dir, or remove it")
    if changed := differences(began, config):
        fields = ", ".join(f"{name} was {was!r}, now {now!r}" for name, (was, now) in changed.items())
        raise UsageError(f"{folder} is a run of another config: {fields}; give another --run-dir, or the same fields")
    return True


@contextlib.contextmanager
def run_folder(folder: Path, does: str = "trains") -> Iterator[None]:
    """Make a run folder, or what another process than one that trains fills, and lock it for this process.

    Raises `UsageError` if that is not possible.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write to {folder}: it is read-only; give another --run-dir")
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps two processes apart there
        yield
        return
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process, however it ends
        except OSError as error:
            raise UsageError(f"another process {does} in {folder}; wait for it, or give another --run-dir") from error
        yield


def run_config(folder: str | Path) -> TrainConfig | None:
    """The config of a run folder; None for any other folder."""
    path = Path(folder) / CONFIG
    if not path.is_file() or is_publication(folder):
        return None
    return config_from_json(path.read_text("utf-8", errors="replace"), str(path))


def is_publication(folder: str | Path) -> bool:
    """Whether a folder holds what `publish` wrote."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and PUBLISHED in config
