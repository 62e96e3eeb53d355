"""Between a map and the tokens of a Transformer: patches with their positions, attention, and the way back."""

from typing import Any, Literal

import keras
from keras import ops

from resnet_keras.models.pooling import Shape

NOT_DECAYED = ("class_token", "positions")
"""Names of the weights that are no kernels, though they may have two axes: weight decay leaves them out."""


def resampling(length: Any, side: int, dtype: str, how: Literal["bilinear", "bicubic"] = "bicubic") -> Any:
    """How `length` values come of `side`, both evenly over the same line: `[length, side]`, each row of sum 1.

    Wider where it shrinks, as in Pillow, timm, and `tf.image.resize(..., antialias=True)`; bicubic with a of -0.5 (Keys
    1981). By plain operations, so that every backend, and XLA, has the same. The identity where nothing changes.
    """
    scale = side / ops.cast(length, dtype)
    centre = (ops.cast(ops.arange(length), dtype) + 0.5) * scale - 0.5
    distance = ops.abs(ops.cast(ops.arange(side), dtype)[None, :] - centre[:, None]) / ops.maximum(scale, 1.0)
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    cubic = ops.where(distance < 1, near, ops.where(distance < 2, far, ops.zeros_like(far)))
    taps = cubic if how == "bicubic" else ops.maximum(1.0 - distance, 0.0)
    return taps / ops.sum(taps, -1, keepdims=True)


@keras.saving.register_keras_serializable("resnet_keras")
class Tokens(keras.layers.Layer):
    """A map of patches to tokens with their positions, behind a class token: `[N, H, W, C]` to `[N, 1 + H*W, C]`.

    Dosovitskiy et al. 2020, equation 1. The position embeddings are of a square; for a map of another size they are
    interpolated, bicubically (section 3.2, fine-tuning and higher resolution).

    Args:
        side: of that square, in patches.
        class_token: put one before the others.
    """

    def __init__(self, side: int, class_token: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side, self.has_class_token = side, class_token

    def build(self, input_shape: Shape) -> None:
        channels, first = input_shape[-1], int(self.has_class_token)
        normal = keras.initializers.RandomNormal(stddev=0.02)
        if self.has_class_token:
            self.class_token = self.add_weight(shape=(channels,), initializer="zeros", name="class_token")
        shape = (first + self.side**2, channels)
        self.positions = self.add_weight(shape=shape, initializer=normal, name="positions")

    def call(self, x: Any) -> Any:
        images, height, width, channels = ops.shape(x)
        first = int(self.has_class_token)
        embeddings = ops.reshape(self.positions[first:], (self.side, self.side, channels))
        if tuple(x.shape[1:3]) != (self.side, self.side):
            dtype = self.variable_dtype
            rows, columns = resampling(height, self.side, dtype), resampling(width, self.side, dtype)
            embeddings = ops.einsum("ig,jh,ghc->ijc", rows, columns, ops.cast(embeddings, dtype))
        tokens = ops.reshape(x + ops.cast(embeddings, x.dtype), (-1, height * width, channels))
        if not self.has_class_token:
            return tokens
        before = ops.cast(self.class_token + self.positions[0], x.dtype)
        return ops.concatenate([ops.broadcast_to(before, (images, 1, channels)), tokens], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        images, height, width, channels = input_shape
        known = height is not None and width is not None
        return (images, height * width + int(self.has_class_token) if known else None, channels)  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side, "class_token": self.has_class_token}


@keras.saving.register_keras_serializable("resnet_keras")
class SelfAttention(keras.layers.Layer):
    """What each token reads of all: queries, keys and values side by side, `[N, T, 3C]`, to `[N, T, C]`.

    Softmax of the scaled products of queries and keys, for each head, times the values (Vaswani et al. 2017, equation
    1). It has no weights: the dense layers before and behind it have them.

    Args:
        heads: equal parts of the channels that attend apart.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, x: Any) -> Any:
        tokens, channels = ops.shape(x)[1], x.shape[-1] // 3
        x = ops.reshape(x, (-1, tokens, 3, self.heads, channels // self.heads))
        y = ops.dot_product_attention(x[:, :, 0], x[:, :, 1], x[:, :, 2])
        return ops.reshape(y, (-1, tokens, channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], (input_shape[-1] or 0) // 3)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("resnet_keras")
class TokenPooling(keras.layers.Layer):
    """Tokens to one vector: `[N, T, C]` to `[N, C]`.

    Args:
        kind: the class token, or the mean or maximum of the others.
        class_token: there is one before the others.
    """

    def __init__(self, kind: Literal["token", "avg", "max"], class_token: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.has_class_token = kind, class_token

    def call(self, x: Any) -> Any:
        if self.kind == "token":
            return x[:, 0]
        return (ops.mean if self.kind == "avg" else ops.max)(x[:, int(self.has_class_token) :], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind, "class_token": self.has_class_token}


@keras.saving.register_keras_serializable("resnet_keras")
class TokenMap(keras.layers.Layer):
    """Tokens back to the map that they come from: `[N, T, C]` and the images, `[N, H, W, c]`, to `[N, h, w, C]`.

    Args:
        patch_size: pixels of a side of a patch.
        class_token: there is one before the others, which is left out.
    """

    def __init__(self, patch_size: int, class_token: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size, self.has_class_token = patch_size, class_token

    def call(self, inputs: Any) -> Any:
        tokens, images = inputs
        height, width = (side // self.patch_size for side in ops.shape(images)[1:3])
        return ops.reshape(tokens[:, int(self.has_class_token) :], (-1, height, width, tokens.shape[-1]))

    def compute_output_shape(self, input_shape: Any) -> Shape:
        tokens, images = input_shape
        return (tokens[0], *(side and side // self.patch_size for side in images[1:3]), tokens[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "patch_size": self.patch_size, "class_token": self.has_class_token}
