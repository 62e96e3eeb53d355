"""Small files under the names that the pages of the docs use."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

import resnet_keras as rk

COLOURS = {"bird": (200, 60, 30), "cat": (60, 200, 30), "dog": (30, 60, 200)}


def make(name: str, folder: Path, run: Path) -> None:
    """Make one of these files in a page's folder; of a name in runs/, a copy of a run of the recipe digits."""
    if name.startswith("runs/"):
        shutil.copytree(run, folder / name)
    else:
        (folder / name).parent.mkdir(exist_ok=True)
        MAKERS[name](folder / name)


def _jpeg(path: Path, label: str, seed: int, kind: str = "jpeg") -> None:
    """An image of noise whose colour is its class."""
    pixels = np.random.default_rng(seed).integers(0, 50, (40 + seed % 7, 48, 3)) + COLOURS[label]
    encode = tf.io.encode_jpeg if kind == "jpeg" else tf.io.encode_png
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels.clip(0, 255).astype("uint8")).numpy())


def _folder(folder: Path, count: int = 20) -> None:
    for number, label in enumerate(COLOURS):
        for i in range(count):
            _jpeg(folder / label / f"{i}.jpg", label, 100 * number + i)


def _table(path: Path) -> None:
    rows = ["image,label"]
    for number, label in enumerate(COLOURS):
        for i in range(20):
            image = Path("photos", f"{label}-{i}.jpg")
            _jpeg(path.parent / image, label, 100 * number + i)
            rows.append(f"{image},{label}")
    path.write_text("\n".join([*rows, ""]))


def _digit(path: Path) -> None:
    path.write_bytes(tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (8, 8, 1), "uint8")).numpy())


def _checkout(path: Path) -> None:
    """A file that is in the checkout under the same name."""
    shutil.copy(Path(rk.__file__).parents[1] / path.parent.name / path.name, path)


MAKERS: dict[str, Callable[[Path], object]] = {
    "my_images": _folder,
    "my_images.csv": _table,
    "images": lambda folder: [_jpeg(folder / f"{label}.jpg", label, 1) for label in COLOURS],
    "photo.jpg": lambda path: _jpeg(path, "cat", 3),
    "image.png": lambda path: _jpeg(path, "dog", 4, "png"),
    "digit.png": _digit,
    "saved_models/batching.config": _checkout,
    "saved_models/monitoring.config": _checkout,
}
