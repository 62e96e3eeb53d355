"""Text to files, whole or not at all, and what is said where that cannot be. Standard library only."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_keras.errors import UsageError, reason


def cannot_write(path: Path, error: Exception) -> UsageError:
    """The error for a folder that is full, read-only or not a folder."""
    return UsageError(f"cannot write to {path}: {reason(error)}; free space there or give another folder")


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Within it, a disk that is full or read-only is a `UsageError` that names the folder."""
    try:
        yield
    except BrokenPipeError:  # not of a file: who reads what is printed has gone
        raise
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end; after an error `path` is as it was."""
    beside = path.with_name(f".part-{path.name}")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut can leave the new name with nothing behind it
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    with atomic_write(path) as beside:
        beside.write_text(text, "utf-8")


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """The JSON object of a file. Raises `UsageError`, which names the file and says how to `mend` it, for another."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}; {mend}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}, not an object; {mend}")
    return value


def json_text(value: Any) -> str:
    """JSON, in which a number that is none (NaN, infinity) is null."""

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: plain(item) for key, item in part.items()}
        if isinstance(part, list | tuple):
            return [plain(item) for item in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(plain(value), allow_nan=False)
