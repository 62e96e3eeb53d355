"""Images inside the report of a run: what was mistaken, with Grad-CAM, and training images as augmented."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from resnet_keras.errors import UsageError
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.explain import explain_pixels

SAMPLES = 16
SMALL, LARGE = 64, 192
"""Of an image's longer side, in pixels: up to the first it is kept to the pixel, above the second it is shrunk."""
SHOWN = 96
"""To which the longer side of a small image is enlarged under its heat."""


@dataclass(frozen=True)
class Shown:
    """An image of the page."""

    image: str
    """As a URL that holds it."""
    words: str
    tiny: bool
    """Enlarged without smoothing."""
    heat: str | None = None
    predicted: str = ""


def mistakes_of(result: Evaluation, network: keras.Model, files: Sequence[str] = ()) -> list[Shown]:
    """The most confident mistakes, each with Grad-CAM for the class that it was taken for, where the net has a map.

    Args:
        result: of the network.
        network: from pixels to probabilities.
        files: names of the images, in the order in which they were evaluated.
    """
    found = result.reliability.mistakes if result.reliability else ()
    if not found:
        return []
    pixels = np.stack([one.pixels for one in found])
    try:
        heats = [one.heat for one in explain_pixels(network, pixels, [one.predicted for one in found])]
    except UsageError:  # no map before the head
        heats = [None] * len(found)
    shown = []
    for one, heat in zip(found, heats, strict=True):
        predicted = result.labels[one.predicted]
        words = f"{result.labels[one.target]}, taken for {predicted} ({one.confidence:.1%})"
        if one.place < len(files):
            words += f": {Path(files[one.place]).name}"
        over = None if heat is None else _url(_heated(one.pixels, heat))
        shown.append(Shown(_url(one.pixels), words, _is_small(one.pixels), over, predicted))
    return shown


def samples_of(
    batch: tuple[np.ndarray, np.ndarray] | None, labels: Sequence[str], *, several: bool = False
) -> list[Shown]:
    """Training images `[N, H, W, C]`, 0 to 255, and what they are by their labels `[N, classes]`.

    `several`: an image can have several labels, or none.
    """
    if batch is None:
        return []
    shown = []
    for image, label in zip(batch[0][:SAMPLES], batch[1][:SAMPLES], strict=True):
        pixels = image.clip(0, 255).astype("uint8")
        words = _several_words(label, labels) if several else _label_words(label, labels)
        shown.append(Shown(_url(pixels), words, _is_small(pixels)))
    return shown


def _label_words(label: np.ndarray, labels: Sequence[str]) -> str:
    """The class, or the two that are mixed. What label smoothing gives to all is none of them."""
    rest = label - label.min()
    first, *others = np.argsort(-rest, kind="stable")[:2].tolist()
    total = rest[[first, *others]].sum()
    if not others or total <= 0 or rest[others[0]] < 0.02 * total:
        return labels[int(first)]
    return " + ".join(f"{labels[i]} {rest[i] / total:.0%}" for i in (first, *others))


def _several_words(label: np.ndarray, labels: Sequence[str]) -> str:
    """The labels; of mixed images each with its part."""
    parts = [(labels[i], label[i]) for i in np.flatnonzero(label).tolist()]
    return ", ".join(name if part == 1 else f"{name} {part:.0%}" for name, part in parts) or "none"


def _is_small(pixels: np.ndarray) -> bool:
    return max(pixels.shape[:2]) <= SMALL


def _colours(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] of images of any number of channels."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]


def _heated(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]: the image in grey under the colours of its heat."""
    factor = max(1, -(-SHOWN // max(pixels.shape[:2])))
    grey = _colours(pixels).mean(-1, keepdims=True).repeat(factor, 0).repeat(factor, 1)
    larger = tf.image.resize(heat[..., None], grey.shape[:2], "bilinear").numpy()[..., 0]
    colours = 255 * matplotlib.colormaps["viridis"](larger)[..., :3]
    # In middle greys, for the lightness of the colours is what shows the heat.
    return (0.6 * colours + 0.4 * (73 + 0.43 * grey)).clip(0, 255).astype("uint8")


def _url(pixels: np.ndarray) -> str:
    pixels = _colours(pixels)
    side = max(pixels.shape[:2])
    if side > LARGE:
        smaller = [max(1, round(one * LARGE / side)) for one in pixels.shape[:2]]
        pixels = tf.cast(tf.round(tf.image.resize(pixels, smaller, "area")), tf.uint8).numpy()
    if side <= SHOWN:
        encoded, kind = tf.io.encode_png(pixels), "png"
    else:
        encoded, kind = tf.io.encode_jpeg(pixels, quality=88), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.numpy()).decode()}"
