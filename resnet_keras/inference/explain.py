"""`explain`: which parts of an image speak for a class, by Grad-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data.format import image_format
from resnet_keras.data.images import decode, evaluated_window
from resnet_keras.errors import UsageError, unknown
from resnet_keras.inference.gradcam import GradCam, Heat
from resnet_keras.inference.predict import model_labels, read_image, servable_folder
from resnet_keras.models.saved import classifier, model_file

LONGEST = 1024
"""Pixels of the longer side of an image as it is shown."""
Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Explanation:
    """The parts of one image that speak for one class.

    Examples:
        >>> explanation = rk.explain("cifar10-jpeg", "cat.jpg")
        >>> row, column = np.unravel_index(explanation.heat.argmax(), explanation.heat.shape)
        >>> explanation.map_size
        (8, 8)
    """

    label: str
    """The class."""
    score: float
    """What `predict` gives the class."""
    heat: np.ndarray
    """float32 [H, W] at the network's input size, 0 to 1; zero everywhere where no part speaks for the class."""
    map_size: tuple[int, int]
    """Height and width of the map that the heat comes from, and so its resolution."""
    pixels: np.ndarray
    """uint8 [H, W, C]: the image as it was prepared for the network."""
    image: np.ndarray | None = None
    """uint8 [h, w, 3]: the image itself, upright, its longer side at most 1,024; None where only `pixels` are known."""
    window: Window | None = None
    """What of `image` the network sees, and `heat` lies over: top, left, bottom and right, in its pixels."""

    @property
    def empty(self) -> bool:
        """Whether no part of the image speaks for the class."""
        return not self.heat.any()


class Explainer:
    """Explains images by one model.

    Args:
        source: a model, a run folder, a `.keras` file or a packaged name.
        label: the class to explain; the likeliest of each image when None.

    Raises:
        UsageError: nothing there, a damaged file, a SavedModel, or a label that the model does not have.
    """

    def __init__(self, source: str | Path | keras.Model, label: str | None = None) -> None:
        model = classifier(source)
        self._name, self._shape, self._names = model.name, image_format(model), model_labels(model)
        if label is not None and label not in self._names:
            raise unknown(f"label of {model.name}", label, self._names)
        self._chosen = None if label is None else self._names.index(label)
        self._grad_cam = GradCam(model)

    def file(self, path: str | Path) -> Explanation:
        """Explain an image file. Raises `UsageError` where it cannot be read, as `GradCam` does, and for NaN."""
        return self._one(tf.constant(read_image(path)), str(path))

    def image(self, image: np.ndarray) -> Explanation:
        """Explain an image, `uint8[H, W, C]` of any size, as a file of these pixels is. Raises as `file` does."""
        channels = self._shape.channels
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != channels or not image.size:
            raise UsageError(
                f"the image must be a file or uint8 [H, W, {channels}], not {image.dtype} {list(image.shape)}"
            )
        return self._one(tf.constant(image))

    def prepared(self, pixels: np.ndarray, classes: Sequence[int] | None = None) -> list[Explanation]:
        """Explain images `uint8[N, H, W, C]` of the model's own size, as they are. Raises as `file` does.

        Args:
            pixels: the images.
            classes: the class of each to explain; the `label` given above, or the likeliest, when None.
        """
        if classes is None and self._chosen is not None:
            classes = [self._chosen] * len(pixels)
        return [self._explanation(*one) for one in zip(self._grad_cam(pixels, classes), pixels, strict=True)]

    def _one(self, image: tf.Tensor, name: str = "the image") -> Explanation:
        pixels = self._shape.evaluation_transform(image).numpy().astype("uint8")
        heat = self._grad_cam(pixels[None], None if self._chosen is None else [self._chosen])[0]
        whole: Any = decode(image, 3) if image.dtype == tf.string else tf.broadcast_to(image, (*image.shape[:2], 3))
        sides = (int(whole.shape[0]), int(whole.shape[1]))
        window = evaluated_window(sides, self._shape.size, self._shape.card.crop)
        scale = min(1.0, LONGEST / max(sides))
        if scale < 1:
            smaller = [max(1, round(side * scale)) for side in sides]
            whole = tf.round(tf.image.resize(whole, smaller, "bilinear", antialias=True))
            by = [now / before for now, before in zip(smaller, sides, strict=True)] * 2
            window = (window[0] * by[0], window[1] * by[1], window[2] * by[2], window[3] * by[3])
        return self._explanation(heat, pixels, whole.numpy().astype("uint8"), window, name)

    def _explanation(
        self,
        found: Heat,
        pixels: np.ndarray,
        image: np.ndarray | None = None,
        window: Window | None = None,
        name: str = "an image",
    ) -> Explanation:
        if not np.isfinite(found.scores).all():
            raise UsageError(f"{self._name} returns NaN for {name}; it cannot be explained")
        size = (found.coarse.shape[0], found.coarse.shape[1])
        heat = tf.image.resize(found.coarse[..., None], self._shape.size, "bilinear").numpy()[..., 0]
        heat /= heat.max() or 1
        label, score = self._names[found.chosen], float(found.scores[found.chosen])
        return Explanation(label, score, heat, size, pixels, image, window)


def explain(
    source: str | Path | keras.Model, image: str | Path | np.ndarray, *, label: str | None = None
) -> Explanation:
    """Grad-CAM (Selvaraju et al. 2017, section 3) of one image and one class.

    The last map before the head is weighted by the gradient of the class's logit, averaged over the positions; what is
    positive of the sum over the channels is enlarged to the image, bilinearly, and scaled by its maximum. The last
    map is that of the last stage, before its pool and behind a final norm, also of a backbone that is a model inside
    the model. Where it is a single pixel, the one before it is taken. The tokens of a Transformer are a map of the
    square that they come from.

    Args:
        source: a model, a run folder, a `.keras` file or a packaged name.
        image: a file of JPEG, PNG, GIF, BMP or WebP, or `uint8[H, W, C]` of any size, prepared as `predict` does.
        label: the class to explain; the likeliest when None.

    Raises:
        UsageError: nothing there, a damaged file, a SavedModel, a model without a map before its head, a file that is
            no image, or a label that the model does not have.

    Examples:
        >>> explanation = rk.explain("cifar10-jpeg", "cat.jpg", label="cat")
        >>> explanation.heat.shape
        (32, 32)
        >>> rk.draw_explanation(explanation).savefig("explained.png")
    """
    check_explainable(source)
    if not isinstance(image, np.ndarray):
        read_image(image)  # before a large model is loaded
    explainer = Explainer(source, label)
    return explainer.image(image) if isinstance(image, np.ndarray) else explainer.file(image)


def explain_pixels(model: keras.Model, pixels: np.ndarray, classes: Sequence[int] | None = None) -> list[Explanation]:
    """Grad-CAM of a batch of images that are prepared already: `uint8[N, H, W, C]`, of the model's own size.

    Args:
        model: from images to scores or logits of classes.
        pixels: the images, 0 to 255.
        classes: the class of each to explain; the likeliest when None.

    Raises:
        UsageError: a model without a map before its head, or one that returns NaN.
    """
    return Explainer(model).prepared(pixels, classes)


def check_explainable(source: str | Path | keras.Model) -> None:
    """Raise `UsageError` for a wrong model, which is reported before a wrong image."""
    if isinstance(source, str | Path):
        if servable_folder(source):
            raise UsageError(f"{source} is a SavedModel, which has no gradients; give its run folder or .keras file")
        model_file(source)
