"""A run in a store: a folder of this machine in which it goes on, and states of it in the store, each whole.

Files are objects named by their SHA-256, which are never written again. `state.json`, written after them as one object,
says which make up the folder: a reader, or a run that is gone on with, sees the state before or the one after. What no
state names any more is removed after that.
"""

import contextlib
import hashlib
import json
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from resnet_keras.errors import UsageError
from resnet_keras.files import atomic_write, write_text
from resnet_keras.progress import counted
from resnet_keras.remote.cache import cache_folder, is_held, locked
from resnet_keras.remote.stores import RemoteError, open_store

OURS = ".resnet-keras"
STATE, WRITER, OBJECTS = f"{OURS}/state.json", f"{OURS}/writer.json", f"{OURS}/objects"
FORMAT_VERSION = 1
PLAIN = ("config.json", "metrics.csv", "metrics.json", "report.html")
"""Small files that are written under their own names too, for people and other programs; only the state is read."""
WAITS = (1.0, 4.0)
"""Seconds before each further try."""
TIMES = 5
"""To read a state anew, whose objects were removed while they were read."""


class WorkingCopy:
    """The copy of a run's remote folder.

    Args:
        url: of the folder, such as `s3://bucket/run`.

    Raises:
        UsageError: a scheme that is not known or whose library is missing; a cache folder that cannot be made.
    """

    def __init__(self, url: str) -> None:
        self.url, self.store, self.folder = url.rstrip("/"), open_store(url), cache_folder(url)
        self._beside = self.folder.parent
        self._me = uuid.uuid4().hex
        self._digests: dict[str, tuple[tuple[int, int], str]] = {}
        """Of files by size and time, so that what did not change is not read again."""

    @property
    def _synced(self) -> Path:
        """A file with the state that the folder was last the same as."""
        return self._beside / "state.json"

    @property
    def _behind(self) -> Path:
        """A file that is there where the last push failed."""
        return self._beside / "behind"

    @property
    def behind(self) -> bool:
        """Whether the last push failed: the folder has what the store does not."""
        return self._behind.exists()

    def pull(self) -> None:
        """Make the folder what the store's state says.

        Where that is still the state which the folder was last the same as, what was written here since stays; and
        where the store has none and the last push failed. A run that was removed from the store is removed here.
        """
        for _ in range(TIMES):
            text = self.store.read(STATE)
            known = self._synced.read_bytes() if self._synced.exists() else None
            if text == known or (text is None and self.behind):
                return
            try:
                self._replace(_files_of(text, self.url))
            except RemoteError:
                if self.store.read(STATE) == text:
                    raise
                continue  # another state has taken its place, and its objects are gone
            if text is None:
                self._synced.unlink()
            else:
                write_text(self._synced, text.decode())
            return
        raise RemoteError(f"{self.url} is written again and again; try again when its run is over")

    def _replace(self, files: dict[str, str]) -> None:
        for name, digest in counted(list(files.items()), f"reading {self.url}", len(files), unit="files"):
            path = self.folder / name
            if path.is_file() and _digest(path) == digest:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as beside:
                self.store.download(_object(digest, name), beside)
                if _digest(beside) != digest:
                    raise RemoteError(f"{self.url}/{_object(digest, name)} is damaged: its SHA-256 differs")
        for path in self._local_files():
            if path.relative_to(self.folder).as_posix() not in files:
                path.unlink()
        for folder in sorted((path for path in self.folder.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()

    def claim(self) -> None:
        """Say in the store that this process writes there now: one that did before stops at its next state."""
        self.store.write(WRITER, self._writer())
        # What a killed process had uploaded for a state that it did not come to write.
        wanted = {_object(digest, name) for name, digest in _files_of(self.store.read(STATE), self.url).items()}
        for name in set(self.store.files(OBJECTS)) - wanted:
            self.store.remove(name)

    def _writer(self) -> bytes:
        return json.dumps({"id": self._me, "host": socket.gethostname()}).encode()

    def push(self, waits: Sequence[float] = WAITS) -> None:
        """Write the folder as the store's state, unless it is that. Tries again, after `waits`, where that fails.

        Raises:
            RemoteError: the store refuses.
            UsageError: another process writes there now.
        """
        for wait in (*waits, None):
            try:
                self._push()
                self._behind.unlink(missing_ok=True)
                return
            except RemoteError:
                self._behind.touch()
                if wait is None:
                    raise
                time.sleep(wait)

    def _push(self) -> None:
        with locked(self._beside / "lock"):
            said = self.store.read(WRITER)
            if said is None:  # the folder was emptied meanwhile: it is written anew
                self.store.write(WRITER, said := self._writer())
            writer = json.loads(said)
            if writer.get("id") != self._me:
                by = f" on {writer['host']}" if "host" in writer else ""
                raise UsageError(
                    f"another process{by} writes to {self.url} now; this one's state is in {self.folder}: give one of "
                    "them another --run-dir"
                )
            text = self.store.read(STATE)
            before, now = _files_of(text, self.url), {}
            for path in self._local_files():
                name = path.relative_to(self.folder).as_posix()
                now[name] = self._upload(path, name, before.get(name))
            if now == before:
                return
            state = json.dumps({"format_version": FORMAT_VERSION, "state": uuid.uuid4().hex, "files": now}, indent=1)
            self.store.write(STATE, state.encode())
            write_text(self._synced, state)
            for name in PLAIN:
                if name in now and now[name] != before.get(name):
                    self.store.upload(self.folder / name, name)
            for name in {_object(d, n) for n, d in before.items()} - {_object(d, n) for n, d in now.items()}:
                with contextlib.suppress(RemoteError):  # the next to claim it removes them
                    self.store.remove(name)

    def _upload(self, path: Path, name: str, before: str | None) -> str:
        """Upload a file unless the state has it. From a copy: a log may grow meanwhile."""
        found = path.stat()
        key = found.st_size, found.st_mtime_ns
        if name in self._digests and self._digests[name] == (key, before):
            return self._digests[name][1]
        copy = self._beside / "sending"
        shutil.copyfile(path, copy)
        try:
            digest = _digest(copy)
            if digest != before:
                self.store.upload(copy, _object(digest, name))
        finally:
            copy.unlink()
        self._digests[name] = key, digest
        return digest

    def _local_files(self) -> list[Path]:
        """All but hidden ones, which are locks and files that are half written."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))


@contextlib.contextmanager
def working_copy(url: str, say: Callable[[str], None]) -> Iterator[WorkingCopy]:
    """The copy of a run's remote folder, for this process to write; at the end the store has its last state.

    Args:
        url: of the folder.
        say: prints a line.

    Raises:
        UsageError: another process on this machine has it; the store refuses, at the start or at the end.
    """
    copy = WorkingCopy(url)
    beside = copy.folder.parent
    busy = f"another process trains in {url}; wait for it, or give another --run-dir"
    with locked(beside / "writer.lock", busy):
        copy.claim()
        with locked(beside / "lock"):
            copy.pull()
        try:
            yield copy
        except BaseException:
            try:
                copy.push()
            except UsageError as error:
                say(_kept(copy, error))
            raise
        try:
            copy.push()
        except RemoteError as error:
            raise UsageError(_kept(copy, error)) from error


def push_or_warn(copy: WorkingCopy, say: Callable[[str], None]) -> None:
    """Push a state in the midst of a run: where the store refuses, the run goes on, and tries at its next state."""
    try:
        copy.push(() if copy.behind else WAITS)
    except RemoteError as error:
        say(_kept(copy, error))


def _kept(copy: WorkingCopy, error: UsageError) -> str:
    return f"{error}; the run's state is kept in {copy.folder}, and goes to {copy.url} when the same command runs again"


def run_copy(url: str) -> Path:
    """The folder with a remote run's state, to read it.

    Raises:
        UsageError: there is no run, or the store does not answer.
    """
    copy = WorkingCopy(url)
    beside = copy.folder.parent
    with locked(beside / "lock"):
        if not is_held(beside / "writer.lock"):  # else it is newer than the store's state
            copy.pull()
    if not any(copy.folder.iterdir()):
        raise UsageError(f"{url} has no run; give the folder that was --run-dir, and look its name and bucket up")
    return copy.folder


def _files_of(text: bytes | None, url: str) -> dict[str, str]:
    """The digests of a state's files by their paths. Raises `UsageError` for one that is not of ours."""
    if text is None:
        return {}
    try:
        state: Any = json.loads(text)
        files = {str(name): str(digest) for name, digest in state["files"].items()}
        version = state["format_version"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{url}/{STATE} is no state of a run; give another folder") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{url} was written by a later version of resnet-keras (format {version}); install a newer one"
        )
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(f"{url}/{STATE} names {name}, which is outside of the folder; it is no state of a run")
    return files


def _object(digest: str, name: str) -> str:
    return f"{OBJECTS}/{digest}/{PurePosixPath(name).name}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
