"""Tensors of others in our order of axes, and ours in theirs."""

import math

import keras
import numpy as np

from resnet_keras.models.tokens import resampling
from resnet_keras.models.weights.layouts import Layout
from resnet_keras.models.weights.weight_layers import WeightLayer


def to_ours(layer: WeightLayer, layout: Layout, variable: str, value: np.ndarray) -> np.ndarray | None:
    """A tensor of theirs in our order of axes; None where it has not the axes to be put in order."""
    if variable == "positions":
        return _positions(layer, value)
    if layout.style == "torch" and variable in ("class_token", "gamma") and value.size == max(value.shape):
        return value.reshape(-1)
    if layout.grouped and variable == "kernel" and layer.is_depthwise:
        return value.transpose(0, 1, 3, 2) if value.ndim == 4 else None
    if layout.style == "keras" or variable != "kernel":
        return value
    if layer.is_depthwise:
        return value.transpose(2, 3, 0, 1) if value.ndim == 4 else None
    outputs, dense = value.shape[0], len(layer.variables["kernel"].shape) == 2
    if dense and value.ndim == 2 and not layer.grid:
        return value.T
    if dense and value.ndim == 2 and value.shape[1] % layer.grid**2 == 0:
        # a dense layer on a flattened map, which torch flattens with the channels first
        value = value.reshape(outputs, -1, layer.grid, layer.grid)
    if value.ndim != 4:
        return None
    value = value.transpose(2, 3, 1, 0)
    return value.reshape(-1, outputs) if dense else value


def to_theirs(layer: WeightLayer, layout: Layout, variable: str, value: np.ndarray) -> np.ndarray:
    """A tensor of ours in their order of axes; `to_ours` is its inverse."""
    if layout.style == "torch" and variable == "gamma" and layer.path.endswith("/scale"):
        return value.reshape(-1, *(1,) * (layout.scale_axes - 1))
    if layout.style == "torch" and variable in ("class_token", "positions"):
        return value.reshape(1, -1, value.shape[-1])
    if layout.grouped and variable == "kernel" and layer.is_depthwise:
        return value.transpose(0, 1, 3, 2)
    if layout.style == "keras" or variable != "kernel":
        return value
    if layer.is_depthwise:
        return value.transpose(2, 3, 0, 1)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if layer.grid:
        value = value.reshape(layer.grid, layer.grid, -1, value.shape[-1])
        return value.transpose(3, 2, 0, 1).reshape(value.shape[-1], -1)
    if "/se/" in layer.path:
        return value.T[:, :, None, None]
    return value.T


def _positions(layer: WeightLayer, value: np.ndarray) -> np.ndarray:
    """Position embeddings `[..., T, C]`, interpolated where they are of images of another size.

    DeiT III's have none for the class token, which is as good as zeros.
    """
    value = value.reshape(-1, value.shape[-1]) if value.ndim > 1 else value
    wanted, first = layer.variables["positions"].shape[0], int(layer.layer.has_class_token)
    side = math.isqrt(len(value))
    if first and side * side == len(value):
        value = np.concatenate([np.zeros_like(value[:1]), value])
    side = math.isqrt(len(value) - first)
    if len(value) == wanted or side * side != len(value) - first or value.ndim != 2:
        return value
    rows = np.asarray(keras.ops.convert_to_numpy(resampling(layer.layer.side, side, "float32")))
    grid = np.einsum("ig,jh,ghc->ijc", rows, rows, value[first:].reshape(side, side, -1))
    return np.concatenate([value[:first], grid.reshape(-1, value.shape[-1])]).astype("float32")
