"""The images that a network takes: their size, channels and evaluation transform."""

from dataclasses import dataclass

import keras
import tensorflow as tf

from resnet_keras.data.images import decoder, resize_and_centre_crop
from resnet_keras.models.card import ModelCard
from resnet_keras.models.preprocessing import missing_normalisation, model_card

DEFAULT_SIDE = 224


@dataclass(frozen=True)
class ImageFormat:
    """The size and channels of a network's input, and the card that says how images are brought to them."""

    size: tuple[int, int]
    channels: int
    card: ModelCard

    def evaluation_transform(self, image: tf.Tensor) -> tf.Tensor:
        """An encoded image, or `uint8[H, W, channels]`, to `float32[*size, channels]`: the evaluation transform."""
        image = decoder(self.channels)(image) if image.dtype == tf.string else image
        image = resize_and_centre_crop(image, self.size, self.card.crop, self.card.interpolation)
        return tf.ensure_shape(image, [*self.size, self.channels])


def image_format(model: keras.Model) -> ImageFormat:
    """The images that a model takes, of the size it was tested on, or 224x224, where its input has no fixed size."""
    height, width, channels = model.input_shape[1:]
    card = model_card(model)
    size = card.input_size or (DEFAULT_SIDE, DEFAULT_SIDE)
    return ImageFormat((height or size[0], width or size[1]), channels, card)


def from_pixels(model: keras.Model) -> keras.Model:
    """The model as a function of raw pixels, 0 to 255: itself, or with its card's normalisation before it."""
    missing = missing_normalisation(model)
    if missing is None:
        return model
    shape = image_format(model)
    pixels = keras.Input((*shape.size, shape.channels), name="image")
    return keras.Model(pixels, model(missing(pixels)), name=model.name)
