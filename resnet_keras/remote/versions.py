"""A servable's version folders in a store. The manifest is written last: a version without one is not there yet."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from resnet_keras.errors import UsageError
from resnet_keras.remote.cache import cache_folder, locked
from resnet_keras.remote.stores import RemoteError, Store, open_store

MANIFEST = "assets.extra/manifest.json"
CLAIM = ".export-"
GRAPH = "saved_model.pb"


def complete_versions(store: Store) -> list[int]:
    """The version numbers whose manifest is there, rising."""
    return sorted(number for number, names in _by_number(store.files()).items() if MANIFEST in names)


@contextlib.contextmanager
def new_version(url: str, version: int | None) -> Iterator[tuple[Path, int]]:
    """A folder to export to and the number to export as; what is there at the end is written to the store.

    The number is claimed first, by an object that is there while it is written. After an error nothing is left of the
    version; a process that is killed leaves its claim and some files, which no server of ours takes for a version, and
    the next export takes the next number.

    Args:
        url: of the model's folder, `s3://bucket/models/name`.
        version: the next free number when None.

    Raises:
        UsageError: a version that exists, or a store that refuses.
    """
    store = open_store(url)
    number = _claim(store, version)
    written: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder, store.url.rpartition("/")[2])
            yield base, number
            made = base / str(number)
            names = [path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()]
            # TensorFlow Serving knows no marker: the graph, without which it loads nothing, comes late.
            for name in sorted(names, key=lambda name: (name == MANIFEST, name == GRAPH, name)):
                written.append(f"{number}/{name}")
                store.upload(made / name, written[-1])
    except BaseException:
        for name in reversed(written):  # the manifest first
            with contextlib.suppress(RemoteError):
                store.remove(name)
        raise
    finally:
        with contextlib.suppress(RemoteError):
            store.remove(f"{CLAIM}{number}")


def _claim(store: Store, version: int | None) -> int:
    """The requested number, or the next one that nobody has and nobody writes."""
    names = store.files()
    taken = {*_by_number(names), *(_claimed(name) for name in names if name.startswith(CLAIM))}
    number = max(taken, default=0) + 1 if version is None else version
    if number in taken:
        raise UsageError(f"version {number} exists in {store.url}; leave --version out for {max(taken) + 1}")
    while not store.create(f"{CLAIM}{number}", b""):
        if version is not None:
            raise UsageError(f"version {number} is being written to {store.url}; leave --version out")
        number += 1
    return number


def fetch_version(url: str, number: int) -> Path:
    """The copy of a version on this machine, made unless it is there.

    Raises:
        UsageError: it is not complete, or the store does not answer.
    """
    store, base = open_store(url), cache_folder(url)
    folder = base / str(number)
    with locked(base.parent / "lock"):
        manifest = store.read(f"{number}/{MANIFEST}")
        if manifest is None:
            raise UsageError(
                f"{url}/{number} has no {MANIFEST}: it is not complete, or was not exported by this package"
            )
        if (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == manifest:
            return folder
        beside = Path(tempfile.mkdtemp(prefix=".part-", dir=base))
        try:
            for name in store.files(str(number)):
                path = beside / name.partition("/")[2]
                if beside not in Path(os.path.normpath(path)).parents:
                    raise UsageError(f"{url}/{name} leads out of its folder; it was not exported by this package")
                path.parent.mkdir(parents=True, exist_ok=True)
                store.download(name, path)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def forget_version(folder: Path) -> None:
    """Remove a copy, so that it is made anew."""
    shutil.rmtree(folder, ignore_errors=True)


def _by_number(names: Iterable[str]) -> dict[int, set[str]]:
    """The files of each version folder, of the objects of a store."""
    found: dict[int, set[str]] = {}
    for name in names:
        first, _, rest = name.partition("/")
        if rest and first.isascii() and first.isdecimal() and first == str(int(first)):
            found.setdefault(int(first), set()).add(rest)
    return found


def _claimed(name: str) -> int:
    number = name.removeprefix(CLAIM)
    return int(number) if number.isdecimal() else 0
