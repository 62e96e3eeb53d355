"""Copies of what others keep in a store, to read: a folder as it is, or one file."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnet_keras.errors import UsageError
from resnet_keras.files import atomic_write, read_json, write_text
from resnet_keras.progress import counted
from resnet_keras.remote.cache import cache_folder, locked
from resnet_keras.remote.stores import THREADS, is_remote, open_store


def local(place: str, *, beside: bool = False) -> str:
    """The place itself, or of a remote one the path of its copy on this machine, made or brought up to date.

    Args:
        place: a path or a URL.
        beside: it is a file that names others beside it: the folder it is in is copied.

    Raises:
        UsageError: there is nothing at the URL, or the store does not answer.
    """
    if not is_remote(place):
        return place
    if beside:
        folder, _, name = place.rstrip("/").rpartition("/")
        return str(folder_copy(folder) / name)
    return str(folder_copy(place))


def folder_copy(url: str, under: str = "") -> Path:
    """The copy of a remote folder, or of what is `under` a folder in it. Only objects that have changed are read."""
    store, folder = open_store(url), cache_folder(url)
    record = folder.parent / "listing.json"
    with locked(folder.parent / "lock"):
        listed = {name: tag for name, tag in store.files(under).items() if _is_safe(name)}
        if not listed:
            where = f"{url.rstrip('/')}/{under}".rstrip("/")
            raise UsageError(f"there is nothing in {where}; look its name and its bucket up")
        had = read_json(record, "remove it") if record.exists() else {}
        new = [name for name, tag in listed.items() if had.get(name) != tag or not (folder / name).is_file()]

        def get(name: str) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as part:
                store.download(name, part)
            had[name] = listed[name]

        for name in [name for name in had if _below(name, under) and name not in listed]:
            (folder / name).unlink(missing_ok=True)
            del had[name]
        try:
            _all(get, new, f"reading {url}")
        finally:  # what was read need not be read again
            write_text(record, json.dumps(had))
    return folder


def _all(get: Callable[[str], None], names: list[str], what: str) -> None:
    pool = ThreadPoolExecutor(THREADS)
    try:
        for _ in counted(pool.map(get, names), what, len(names), unit="files"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _below(name: str, under: str) -> bool:
    return not under or name.startswith(f"{under.rstrip('/')}/")


def _is_safe(name: str) -> bool:
    """An object may be called what no file can be, or lead out of the folder."""
    return not name.endswith("/") and all(part not in ("", ".", "..") for part in name.split("/"))
