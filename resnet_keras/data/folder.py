"""A folder of images as a source: `class/file` or `split/class/file`."""

import concurrent.futures
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_keras.data.images import decode
from resnet_keras.data.splits import FileSplit, Source, places_below
from resnet_keras.errors import UsageError, reason
from resnet_keras.startup import standard_error_held

EXTENSIONS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "valid", "validation")
"""In this order: what follows test/ is the validation split where both are there."""
TEST_SHARE = 0.2
MOST_NAMED = 10
"""Files that cannot be used, in one message."""


def open_folder(path: Path) -> Source:
    """Open a folder of images: `class/file`, or `split/class/file` with the splits train, test and, if it likes, val.

    Where it has no splits, a fifth of each class, always the same, is the test split. Of test/ and val/ each is the
    test split where the other is absent.

    Raises `UsageError` for fewer than two classes, an empty class, and files that are no images, naming them.
    """
    children = _subfolders(path)
    # A class may be called train: only a folder of folders is a split.
    train = next((child for child in children if child.name in TRAIN_NAMES and _subfolders(child)), None)
    if train is None:
        labels, paths, targets = _scan(path)
        _check_readable(paths)
        if min(np.bincount(targets)) < 2:
            rare = labels[int(np.argmin(np.bincount(targets)))]
            raise UsageError(f"class {path / rare} has one image; a class needs two, one of them to test with")
        tested = places_below(paths, targets, "test", TEST_SHARE)
        chosen = (np.setdiff1d(np.arange(len(paths)), tested), tested)
        splits = [FileSplit(tuple(paths[i] for i in part), targets[part]) for part in chosen]
        return Source(str(path), tuple(labels), 3, None, *splits)
    tests = [child for name in TEST_NAMES for child in children if child.name == name][:2]
    if not tests:
        raise UsageError(f"{path} has {train.name}/ but no test/ or val/ beside it")
    labels, paths, targets = _scan(train)
    others = []
    for test in tests:
        test_labels, test_paths, test_targets = _scan(test)
        strange = sorted(set(test_labels) - set(labels))
        if strange:
            raise UsageError(f"class {test / strange[0]} is not in {train}")
        places = np.array([labels.index(label) for label in test_labels])
        others.append(FileSplit(tuple(test_paths), places[test_targets]))
    _check_readable([*paths, *(path for split in others for path in split.paths)])
    return Source(str(path), tuple(labels), 3, None, FileSplit(tuple(paths), targets), *others)


def _subfolders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _scan(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Class names, files, and each file's class, of a `class/file` folder."""
    folders = _subfolders(path)
    if len(folders) < 2:
        found = f"one, {folders[0].name}" if folders else "none"
        raise UsageError(f"{path} needs a subfolder for each of two classes or more; it has {found}")
    for folder in folders:
        # A list of labels has one a line, and TensorFlow takes names in UTF-8 only.
        if not folder.name.isprintable():
            raise UsageError(f"class {str(folder)!r} has a name that is not printable UTF-8; rename it")
    paths: list[str] = []
    targets: list[int] = []
    for target, folder in enumerate(folders):
        files = sorted(file for file in folder.iterdir() if _is_image_file(file))
        for file in files:
            try:
                str(file).encode()
            except UnicodeEncodeError as error:
                raise UsageError(f"{str(file)!r} has a name that is not UTF-8; rename it") from error
        if not files:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise UsageError(f"class {folder} is empty: it has no {kinds} file; add images or remove the folder")
        paths += map(str, files)
        targets += [target] * len(files)
    return [folder.name for folder in folders], paths, np.array(targets, "int64")


def _is_image_file(file: Path) -> bool:
    """By its name; a pipe of such a name would be waited for."""
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()


def _check_readable(paths: list[str]) -> None:
    """Decode every file once, so that training does not stop hours later on one that cannot be read."""
    decoded = tf.function(lambda path: tf.shape(decode(tf.io.read_file(path), 3)), [tf.TensorSpec([], tf.string)])

    def fault(path: str) -> str | None:
        try:
            decoded(path)
        except tf.errors.OpError as error:
            return reason(error)
        return None

    with standard_error_held(), concurrent.futures.ThreadPoolExecutor() as pool:  # libjpeg writes there itself
        faults = [f"{path}: {why}" for path, why in zip(paths, pool.map(fault, paths), strict=True) if why]
    if faults:
        count = "1 image" if len(faults) == 1 else f"{len(faults)} images"
        more = "; ..." if len(faults) > MOST_NAMED else ""
        raise UsageError(f"{count} cannot be used, mend or remove: {'; '.join(faults[:MOST_NAMED])}{more}")
