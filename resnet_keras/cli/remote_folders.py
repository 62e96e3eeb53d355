"""Which flags take a remote folder, such as `s3://bucket/run`; every other refuses one before anything is done."""

import dataclasses
from typing import Any, TypeVar

from resnet_keras.errors import UsageError
from resnet_keras.remote.stores import is_remote, open_store
from resnet_keras.remote.working_copy import run_copy

T = TypeVar("T")
RUNS = {("Evaluate", "model"), ("Predict", "model"), ("Explain", "model"), ("Export", "model")} | {
    ("Publish", "run_folder"),
    ("Compare", "runs"),
}
"""Those that read a run: they are given its copy."""
TAKEN = {
    *(("TrainConfig", name) for name in ("run_dir", "data", "data_dir")),
    *(("Evaluate", name) for name in ("data", "data_dir")),
    ("Data", "data"),
    *(("Export", name) for name in ("output", "calibration_data", "data_dir")),
    ("Serve", "model_base_path"),
}
"""Those that are resolved where they are used."""


def with_copies(command: T) -> T:
    """A command with the copies of the remote runs that it reads.

    Raises:
        UsageError: a remote folder where none is taken, that is not there, or whose library is not installed.
    """
    changes: dict[str, Any] = {}
    for name, value in vars(command).items():
        place = type(command).__name__, name
        if dataclasses.is_dataclass(value):
            with_copies(value)  # a config: it keeps its URLs
        for one in value if isinstance(value, tuple | list) else [value]:
            if not is_remote(one):
                continue
            if place not in RUNS | TAKEN:
                raise UsageError(f"{name} {one}: it cannot be a remote folder here; give a folder of this machine")
            open_store(one)  # what it refuses, it refuses before TensorFlow is imported
        if place in RUNS:
            changes[name] = _copied(value)
    return dataclasses.replace(command, **changes) if changes else command  # pyright: ignore[reportArgumentType]


def _copied(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return str(run_copy(value)) if is_remote(value) else value
