"""The graph of a servable: from pixels or encoded pictures to probabilities, labels and features."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.data.pipeline import PictureFormat


class Servable(tf.Module):
    """A classifier with the signatures `serving_default`, `image_bytes` and `features`.

    Args:
        model: from raw pixels `[N, H, W, C]` to probabilities.
        features: the same, to what the classifier reads.
        shape: how encoded pictures are brought to the model's size.
        labels: class names, one an output.
        top_k: classes that `image_bytes` names.
    """

    def __init__(
        self,
        model: keras.Model,
        features: keras.Model,
        shape: PictureFormat,
        labels: tuple[str, ...],
        top_k: int,
    ) -> None:
        super().__init__()
        self._weights = [weight.value for weight in model.weights]  # what the SavedModel keeps
        self._probabilities, self._features = model, features
        self._shape, self._labels, self._top_k = shape, tf.constant(labels), min(top_k, len(labels))

    def __setattr__(self, name: str, value: Any) -> None:
        # Keras models stay out of what TensorFlow tracks: it would save their Python structure too.
        if isinstance(value, keras.Model):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def signatures(self) -> dict[str, Callable[..., Any]]:
        """Signature name to concrete function."""
        image = tf.TensorSpec([None, *self._shape.size, self._shape.channels], tf.uint8, name="image")
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        return {
            "serving_default": tf.function(self.serving_default).get_concrete_function(image),
            "image_bytes": tf.function(self.image_bytes).get_concrete_function(encoded),
            "features": tf.function(self.features).get_concrete_function(image),
        }

    def serving_default(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": self._run(self._probabilities, image)}

    def image_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        image_bytes = tf.ensure_shape(image_bytes, [None])
        pixels = tf.TensorSpec([*self._shape.size, self._shape.channels], tf.float32)
        images = tf.map_fn(self._shape.prepare, image_bytes, fn_output_signature=pixels)
        probabilities = self._run(self._probabilities, images)
        scores, indices = tf.math.top_k(probabilities, self._top_k)
        return {"labels": tf.gather(self._labels, indices), "scores": scores, "probabilities": probabilities}

    def features(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": self._run(self._features, image)}

    def _run(self, model: keras.Model, images: tf.Tensor) -> tf.Tensor:
        # Without this check at its head, a graph fed another rank can end the process that serves it.
        images = tf.ensure_shape(images, [None, *self._shape.size, self._shape.channels])
        return tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32)
