"""`explain`: which parts of an image speak for a class, by Grad-CAM."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.data.format import image_format
from resnet_keras.errors import UsageError, unknown
from resnet_keras.inference.predict import model_labels, read_image, servable_folder
from resnet_keras.models.preprocessing import missing_normalisation
from resnet_keras.models.saved import classifier, model_file


@dataclass(frozen=True)
class Explanation:
    """The parts of one image that speak for one class."""

    label: str
    score: float
    """What `predict` gives the class."""
    heat: np.ndarray
    """float32 [H, W] at the network's input size, 0 to 1; zero everywhere where no part speaks for the class."""
    map_size: tuple[int, int]
    """Height and width of the map that the heat comes from, and so its resolution."""
    pixels: np.ndarray
    """uint8 [H, W, C]: the image as it was prepared for the network."""

    @property
    def empty(self) -> bool:
        """Whether no part of the image speaks for the class."""
        return not self.heat.any()


def explain(source: str | Path | keras.Model, image: str | Path, *, label: str | None = None) -> Explanation:
    """Grad-CAM (Selvaraju et al. 2017, section 3) of one image and one class.

    The last map before the head is weighted by the gradient of the class's logit, averaged over the positions; what is
    positive of the sum over the channels is enlarged to the image, bilinearly, and scaled by its maximum. The last
    map is that of the last stage, before its pool and behind a final norm. Where it is a single pixel, the one before
    it is taken.

    Args:
        source: a model, a run folder, a `.keras` file or a packaged name.
        image: a file of JPEG, PNG, GIF, BMP or WebP, prepared as `predict` does.
        label: the class to explain; the likeliest when None.

    Raises:
        UsageError: nothing there, a damaged file, a SavedModel, a model without a map before its head, a file that is
            no image, or a label that the model does not have.
    """
    if isinstance(source, str | Path):
        if servable_folder(source):
            raise UsageError(f"{source} is a SavedModel, which has no gradients; give its run folder or .keras file")
        model_file(source)  # a wrong model is reported before a wrong image
    encoded = read_image(image)
    model = classifier(source)
    shape, names = image_format(model), model_labels(model)
    if label is not None and label not in names:
        raise unknown(f"label of {model.name}", label, names)
    logits = _logits(model)
    inside = keras.Model(model.inputs[0], [_last_map(model, logits), logits, model.outputs[0]])
    pixels = shape.evaluation_transform(tf.constant(encoded))
    missing = missing_normalisation(model)
    inputs: Any = pixels[None] if missing is None else missing(pixels[None])
    with tf.GradientTape() as tape:
        tape.watch(inputs)  # else nothing is recorded where all weights are frozen
        maps, logits, scores = inside(inputs, training=False)
        chosen = int(np.argmax(scores[0])) if label is None else names.index(label)
        logit = logits[0, chosen]
    gradient = tape.gradient(logit, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    coarse = _combined(*(tf.cast(x, tf.float32).numpy()[0] for x in (maps, gradient)))
    heat = tf.image.resize(coarse[..., None], shape.size, "bilinear").numpy()[..., 0]
    if not np.isfinite(heat).all():
        raise UsageError(f"{model.name} returns NaN for {image}; it cannot be explained")
    heat /= heat.max() or 1
    size = (coarse.shape[0], coarse.shape[1])
    return Explanation(names[chosen], float(scores[0, chosen]), heat, size, pixels.numpy().astype("uint8"))


def _combined(maps: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Equations 1 and 2 of the paper: maps and gradient, float32 `[H, W, C]`, to `[H, W]`."""
    return np.maximum(maps @ gradient.mean((0, 1)), 0)


def _logits(model: keras.Model) -> Any:
    """The tensor `[N, classes]` that the softmax or sigmoid reads, or the output of a model that has none."""
    tensor = model.outputs[0]
    layer = tensor._keras_history.operation
    while isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        (tensor,) = _read_by(tensor)
        layer = tensor._keras_history.operation
    if not isinstance(layer, keras.layers.Dense) or layer.activation is keras.activations.linear:
        return tensor
    logits = keras.ops.matmul(*_read_by(tensor), layer.kernel)
    return logits if layer.bias is None else logits + layer.bias


def _last_map(model: keras.Model, logits: Any) -> Any:
    """The tensor `[N, H, W, C]` nearest to the logits that is larger than a pixel, no pool's output, and of weights."""
    waiting = [logits]
    for tensor in waiting:  # which grows meanwhile
        layer = tensor._keras_history.operation
        places = len(tensor.shape) == 4 and tensor.shape[1:3] != (1, 1) and "Pooling" not in type(layer).__name__
        if places and keras.Model(model.inputs[0], tensor).weights:
            return tensor
        if not isinstance(layer, keras.Model):
            waiting += [x for x in _read_by(tensor) if not any(x is other for other in waiting)]
    raise UsageError(
        f"{model.name} has no map [N, H, W, C] before its head to explain it by; give the network itself where it "
        "holds one"
    )


def _read_by(tensor: Any) -> list[Any]:
    """What the operation that made a Keras tensor reads."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors
