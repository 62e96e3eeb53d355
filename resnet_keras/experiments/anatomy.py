"""Instruments: what goes through a network's blocks, forward and backward, and what it does without one of them.

A ResNet, a ConvNeXt and a ViT are chains of layers, each of which reads the one before; a net is taken as that chain.
Images are raw pixels, `[N, H, W, C]`, 0 to 255; labels are one-hot, float32 `[N, classes]`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import UsageError
from resnet_keras.models.blocks import Residual, ResidualBlock
from resnet_keras.models.layers import ConvNorm, run
from resnet_keras.models.norm_blocks import EncoderBlock, NormResidual

Batches = Iterable[tuple[Any, Any]]
BLOCKS = (Residual, EncoderBlock)


def chain(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a net from pixels to logits, in order."""
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    return layers[: [layer.name for layer in layers].index("logits") + 1]


def blocks_of(network: keras.Model) -> list[ResidualBlock]:
    """The residual blocks of a ResNet, first to last."""
    return [layer for layer in network.layers if isinstance(layer, ResidualBlock)]


@contextlib.contextmanager
def statistics_kept(network: keras.Model) -> Iterator[None]:
    """Within it norms may see batches; their statistics are afterwards as they were."""
    before = [(variable, variable.numpy()) for variable in network.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def gradient_norms(network: keras.Model, images: Any, labels: Any) -> list[float]:
    """How long the gradient is that arrives behind the stem and behind each block, in training mode.

    The L2 norm, over the whole batch, of the derivative of the batch's mean cross-entropy with respect to the stem's
    output (first) and each block's output (last: what the head gives back).

    Raises:
        UsageError: a gradient is NaN or infinite.
    """
    signals = []
    with statistics_kept(network), tf.GradientTape() as tape:
        x = tf.convert_to_tensor(images)
        for layer in chain(network):
            x = run([layer], x, True)
            if layer.name == "stem" or isinstance(layer, BLOCKS):
                tape.watch(x)
                signals.append(x)
        loss = _loss(x, labels)
    return _norms(network, tape.gradient(loss, signals))


def projection_gradient_norms(network: keras.Model, images: Any, labels: Any) -> list[float]:
    """How long the gradient is of each block's last kernel, the dense layer `project` of its MLP, in training mode.

    Of a ViT or a ConvNeXt. The L2 norm of the derivative of the batch's mean cross-entropy: what the optimizer gets.

    Raises:
        UsageError: a gradient is NaN or infinite.
    """
    blocks = [layer.layers[-1] if isinstance(layer, EncoderBlock) else layer for layer in network.layers]
    branches = [block.branch for block in blocks if isinstance(block, NormResidual)]
    kernels = [next(layer for layer in branch if layer.name == "project").kernel for branch in branches]
    with statistics_kept(network), tf.GradientTape() as tape:
        loss = _loss(run(chain(network), tf.convert_to_tensor(images), True), labels)
    return _norms(network, tape.gradient(loss, [kernel.value for kernel in kernels]))


def _loss(logits: Any, labels: Any) -> Any:
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32)))


def _norms(network: keras.Model, gradients: Any) -> list[float]:
    norms = [float(tf.norm(tf.cast(gradient, tf.float32))) for gradient in gradients]
    if not np.isfinite(norms).all():
        raise UsageError(f"a gradient in {network.name} is no number; give a lower learning rate, or fewer layers")
    return norms


def responses(network: keras.Model, images: Any) -> list[float]:
    """The standard deviation of each convolution's response in the blocks, in inference mode.

    After batch norm, before activation or sum (He et al. 2015, section 4.2, "Analysis of layer responses", Figure 7).
    """
    found = []
    for block, x in _at_blocks(network, images):
        x = run(block.front, x, False)
        for layer in block.branch:
            if isinstance(layer, ConvNorm):
                unbent = [part for part in layer.layers if not isinstance(part, keras.layers.Activation)]
                found.append(_deviation(run(unbent, x, False)))
            x = run([layer], x, False)
    return found


def branch_sizes(network: keras.Model, images: Any) -> list[float]:
    """The standard deviation of each block's branch over that of its shortcut, in inference mode; of residual nets."""
    sizes = []
    for block, x in _at_blocks(network, images):
        shortcut, branch = block.terms(x, False)
        sizes.append(_deviation(branch) / _deviation(shortcut))
    return sizes


def identity_errors(network: keras.Model, images: Any) -> dict[str, float]:
    """By block whose shortcut is the identity: the largest difference between what goes in and what comes out."""
    return {
        block.name: float(tf.reduce_max(tf.abs(block(x, training=False) - x)))
        for block, x in _at_blocks(network, images)
        if not block.bypass and block.spec.shortcut != "none"
    }


def lesionable(network: keras.Model) -> list[str]:
    """The blocks that can be left out or swapped: those that keep the shape."""
    return [block.name for block in blocks_of(network) if block.strides == 1 and not block.bypass]


def error_of(layers: Sequence[keras.layers.Layer], batches: Batches) -> float:
    """The share of images that a chain of layers names wrongly, in inference mode."""
    wrong = total = 0
    for images, labels in batches:
        answers = np.argmax(run(layers, images, False), axis=-1)
        wrong += int((answers != np.argmax(labels, axis=-1)).sum())
        total += len(answers)
    return wrong / total


def without(layers: Sequence[keras.layers.Layer], names: Iterable[str]) -> list[keras.layers.Layer]:
    """A chain without some of its blocks."""
    left_out = set(names)
    return [layer for layer in layers if layer.name not in left_out]


def swapped(layers: Sequence[keras.layers.Layer], one: str, other: str) -> list[keras.layers.Layer]:
    """A chain in which two layers have changed places."""
    order, places = list(layers), {layer.name: i for i, layer in enumerate(layers)}
    order[places[one]], order[places[other]] = order[places[other]], order[places[one]]
    return order


def _at_blocks(network: keras.Model, images: Any) -> Iterator[tuple[ResidualBlock, Any]]:
    """Each block with what goes into it."""
    x = tf.convert_to_tensor(images)
    for layer in chain(network):
        if isinstance(layer, ResidualBlock):
            yield layer, x
        x = run([layer], x, False)


def _deviation(tensor: Any) -> float:
    return float(tf.math.reduce_std(tf.cast(tensor, tf.float32)))
