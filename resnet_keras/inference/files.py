"""Image files by their paths and folders."""

from collections.abc import Sequence
from pathlib import Path

from resnet_keras.data.folder import EXTENSIONS
from resnet_keras.errors import UsageError


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files as they are, and in place of a folder the images in it and below it, in order of their names.

    Raises:
        UsageError: a folder without an image, by the endings of its files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        folder = path.expanduser()
        if not folder.is_dir():
            found.append(path)
            continue
        inside = [
            file
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()
        ]
        if not inside:
            raise UsageError(f"{path} has no image: no file in it ends in {', '.join(sorted(EXTENSIONS))}")
        found += inside
    return found
