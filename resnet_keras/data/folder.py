"""A folder of images: `class/file` or `split/class/file`."""

from pathlib import Path

import numpy as np

from resnet_keras.data.listing import Listing, SplitName
from resnet_keras.errors import UsageError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "valid", "validation")
"""In this order: what follows test/ is the validation split where both are there."""


def list_folder(path: Path) -> Listing:
    """List a folder of images: `class/file`, or `split/class/file` with the splits train, test and, if it likes, val.

    Where it has no splits, a fifth of each class, always the same, is the test split. Of test/ and val/ each is the
    test split where the other is absent. What cannot be used is among the listing's `problems`.

    Raises `UsageError` for a folder without classes.
    """
    children = _subfolders(path)
    # A class may be called train: only a folder of folders is a split.
    train = next((child for child in children if child.name in TRAIN_NAMES and _subfolders(child)), None)
    if train is None:
        folders, problems = _class_folders(path)
        parts: list[tuple[SplitName, list[Path]]] = [("train", folders)]
    else:
        tests = [child for name in TEST_NAMES for child in children if child.name == name][:2]
        if not tests:
            raise UsageError(f"{path} has {train.name}/ but no test/ or val/ beside it")
        folders, problems = _class_folders(train)
        parts = [("train", folders)]
        known = {folder.name for folder in folders}
        for split, test in zip(("test", "validation"), tests, strict=False):
            own, faults = _class_folders(test)
            faults += [f"class {folder} is not in {train}" for folder in own if folder.name not in known]
            problems += faults
            parts.append((split, [folder for folder in own if folder.name in known]))
    labels = [folder.name for folder in folders]
    paths: list[str] = []
    targets: list[int] = []
    splits: list[str] = []
    for split, own in parts:
        for folder in own:
            files, faults = _image_files(folder)
            problems += faults
            paths += files
            targets += [labels.index(folder.name)] * len(files)
            splits += [split] * len(files)
    given = None if train is None else np.array(splits, "<U10")
    return Listing(str(path), tuple(labels), tuple(paths), np.array(targets, "int64"), given, tuple(problems))


def _subfolders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _class_folders(path: Path) -> tuple[list[Path], list[str]]:
    """The folders of the classes that have a name to be used, and what is wrong with the others."""
    folders = _subfolders(path)
    if len(folders) < 2:
        found = f"one, {folders[0].name}" if folders else "none"
        raise UsageError(f"{path} needs a subfolder for each of two classes or more; it has {found}")
    # A list of labels has one a line, and TensorFlow takes names in UTF-8 only.
    good = [folder for folder in folders if folder.name.isprintable()]
    wrong = [folder for folder in folders if folder not in good]
    return good, [f"class {str(folder)!r} has a name that is not printable UTF-8; rename it" for folder in wrong]


def _image_files(folder: Path) -> tuple[list[str], list[str]]:
    """The image files of a class, and what is wrong with it."""
    files: list[str] = []
    problems: list[str] = []
    for file in sorted(file for file in folder.iterdir() if _is_image_file(file)):
        try:
            str(file).encode()
            files.append(str(file))
        except UnicodeEncodeError:
            problems.append(f"{str(file)!r} has a name that is not UTF-8; rename it")
    if not files and not problems:
        kinds = ", ".join(sorted(EXTENSIONS))
        problems.append(f"class {folder} is empty: it has no {kinds} file; add images or remove the folder")
    return files, problems


def _is_image_file(file: Path) -> bool:
    """By its name; a pipe of such a name would be waited for."""
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()
