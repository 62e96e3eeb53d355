"""What a file of weights may make of itself in memory, and where it may look: files come from anywhere.

A zip archive or a compressed array of a few kilobytes can stand for gigabytes, and an HDF5 file can have its numbers in
any other file of the computer.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from resnet_keras.errors import UsageError

FREE = 64 << 20
"""Bytes that any file may become."""
MOST_TIMES = 16
"""Of its own bytes, which a file may become besides. Weights hardly shrink when they are compressed."""


def check_archive(path: Path) -> None:
    """Raise `UsageError` for a zip archive, or an HDF5 file in it, that would become many times its size."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size(sum(member.file_size for member in members), size, str(path))
        for member in members:
            if member.filename.endswith(".h5"):
                with archive.open(member) as stream, h5py.File(stream, "r") as file:
                    check_hdf5(file, size, f"{path} ({member.filename})")


def check_hdf5(file: h5py.File, size: int, where: str) -> None:
    """Raise `UsageError` for an HDF5 file that would become many times its size, or that refers to other files."""
    total = 0
    for name, dataset in _datasets(file, where):
        if dataset.external or dataset.is_virtual:
            raise UsageError(f"{name} in {where} is in another file, which is not read")
        total += dataset.nbytes
    _check_size(total, size, where)


def _datasets(group: Any, where: str) -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UsageError(f"{group.name.rstrip('/')}/{name} in {where} is a link, which is not followed")
        child = group[name]
        if isinstance(child, h5py.Dataset):
            yield child.name, child
        else:
            yield from _datasets(child, where)


def _check_size(total: int, size: int, where: str) -> None:
    if total > FREE + MOST_TIMES * size:
        raise UsageError(f"{where} would become {total:,} bytes, of {size:,} in the file; it is damaged or a trap")
