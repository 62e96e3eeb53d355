"""Where the copies of remote folders are on this machine."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from resnet_keras.errors import UsageError
from resnet_keras.files import writing_to


def cache_folder(url: str) -> Path:
    """The folder of a URL's copy, which ends in the URL's last name. It and its parent, for our own files, are made.

    They are below `RESNET_KERAS_CACHE`, else the user's cache folder. Raises `UsageError` where they cannot be made.
    """
    root = os.environ.get("RESNET_KERAS_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "resnet-keras"
    )
    url = url.rstrip("/")
    folder = Path(root).expanduser().resolve() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder /= url.rpartition("/")[2]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path, held_by_another: str | None = None) -> Iterator[None]:
    """Hold a file for this process; where another has it wait, or raise `UsageError` with these words."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if held_by_another is None else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UsageError(str(held_by_another)) from error
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds a file that `locked` is used on."""
    try:
        with locked(path, "held"):
            return False
    except UsageError:
        return True
