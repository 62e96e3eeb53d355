"""Pooling: the stem's, the anti-aliased, and to a grid of fixed size."""

from typing import Any

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("resnet_keras")
class StemMaxPooling(keras.layers.MaxPooling2D):
    """The stem's 3x3 max-pool, padded by 1 on every side, with minus infinity unless another `edge` is given."""

    def __init__(self, edge: float = float("-inf"), **kwargs: Any) -> None:
        kwargs = {"pool_size": 3, "strides": 2, "padding": "valid"} | kwargs
        super().__init__(**kwargs)
        self.edge = edge

    def call(self, x: Any) -> Any:
        return super().call(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=self.edge))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return super().compute_output_shape((batch, height and height + 2, width and width + 2, channels))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config if self.edge == float("-inf") else {**config, "edge": self.edge}  # JSON has no infinity


@keras.saving.register_keras_serializable("resnet_keras")
class BlurPool(keras.layers.Layer):
    """Blur by the 3x3 binomial kernel, edges mirrored, then keep every `strides`-th pixel (Zhang 2019, section 3).

    Args:
        strides: the output is `ceil(size / strides)`.
    """

    def __init__(self, strides: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strides = strides

    def call(self, x: Any) -> Any:
        taps = ops.convert_to_tensor([0.25, 0.5, 0.25], x.dtype)
        kernel = ops.tile(ops.outer(taps, taps)[:, :, None, None], (1, 1, x.shape[-1], 1))
        x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        return ops.depthwise_conv(x, kernel, self.strides, "valid")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, channels = input_shape
        return (batch, *(side and -(-side // self.strides) for side in sides), channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strides": self.strides}


@keras.saving.register_keras_serializable("resnet_keras")
class AdaptivePooling(keras.layers.Layer):
    """Average a map of any size over `side` x `side` cells, which overlap where they do not divide it, as torch does.

    Keras's own fails on maps smaller than the grid.
    """

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def call(self, x: Any) -> Any:
        _, height, width, _ = ops.shape(x)
        rows, columns = self._cells(height, x.dtype), self._cells(width, x.dtype)
        return ops.einsum("ih,nhwc,jw->nijc", rows, x, columns)

    def _cells(self, length: Any, dtype: Any) -> Any:
        """The weight of each pixel along a side in each cell, `[side, length]`."""
        cell, pixel = ops.arange(self.side)[:, None], ops.arange(length)[None, :]
        first, end = cell * length // self.side, ((cell + 1) * length + self.side - 1) // self.side
        inside = ops.cast((pixel >= first) & (pixel < end), dtype)
        return inside / ops.cast(end - first, dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.side, self.side, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side}
