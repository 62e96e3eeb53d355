"""Whether a version folder is as it was exported: the SHA-256 of each file, which its manifest has.

A SavedModel has none of its own: one with a bit or a page damaged can load, and answer wrongly.
"""

import hashlib
from pathlib import Path
from typing import Any

from resnet_keras.errors import UsageError
from resnet_keras.files import read_json

MANIFEST = Path("assets.extra", "manifest.json")


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 in hexadecimal of every file below, but for the manifest, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder) != MANIFEST)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def check_files(folder: Path) -> int | None:
    """Compare a version folder with its manifest.

    Returns:
        The files that are as they were; None where there is no manifest, as in exports of others.

    Raises:
        UsageError: a file that has changed, is missing, or was not exported; a manifest that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    # Version 0.1 had the digest of the graph, which holds the weights.
    expected = manifest.get("files") or {"saved_model.pb": manifest.get("sha256")}
    found = digests_of(folder)
    for name, digest in expected.items():
        if name not in found:
            raise UsageError(f"{folder / name} is missing; export the model again")
        if found[name] != digest:
            raise UsageError(f"{folder / name} is not as it was exported: its SHA-256 differs; export the model again")
    if strange := sorted(set(found) - set(expected)) if "files" in manifest else []:
        raise UsageError(f"{folder / strange[0]} was not exported with the others; remove it")
    return len(expected)


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest as it stands. Raises `UsageError` where it cannot be read."""
    return read_json(path, "export the model again")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
