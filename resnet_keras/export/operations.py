"""A network as a servable computes it: a graph of a few operations with their weights.

While a run trains in int8, the weights are live tensors of the same shapes; see `values.py`.

Maps are `[N, H, W, C]`, kernels `[height, width, channels in of a group, channels out]`, float32. Nothing here changes
once made: folding makes a new operation in place of two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_keras.models.graph import Place

Sides = tuple[tuple[int, int], tuple[int, int]]
"""Pixels before and after, by height and width."""
NO_PADDING: Sides = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """A node of the graph; the docstring of each kind says what it computes from its inputs."""

    inputs: tuple["Operation", ...] = ()
    channels: int = 0
    """Of the output."""

    @property
    def non_negative(self) -> bool:
        """Whether the output is never below zero."""
        return getattr(self, "activation", None) in POSITIVE_ACTIVATIONS


POSITIVE_ACTIVATIONS = ("relu", "relu6", "sigmoid", "softmax", "hard_sigmoid")


@dataclass(frozen=True, eq=False, kw_only=True)
class Pixels(Operation):
    """Raw pixels, 0 to 255."""

    @property
    def non_negative(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Operation):
    """`activation(x * scale + shift)`, one number a channel, the channels in reverse before it where `flip`."""

    scale: np.ndarray
    shift: np.ndarray
    flip: bool = False
    activation: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Operation):
    """Zeros around a map."""

    padding: Sides

    @property
    def non_negative(self) -> bool:
        return self.inputs[0].non_negative


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Operation):
    """`activation(convolution(x) + bias + summand)`; the summand, if there is one, is the second input."""

    kernel: np.ndarray
    bias: np.ndarray
    strides: int = 1
    dilation: int = 1
    padding: Sides = NO_PADDING
    same: bool = False
    """Keras's padding "same" in place of it, which depends on the size of the map."""
    centre: np.ndarray | None = None
    """What is taken from each channel of the input before it is convolved: the value that padding has, so that pixels
    need no arithmetic of their own."""
    activation: str | None = None

    @property
    def groups(self) -> int:
        return self.inputs[0].channels // self.kernel.shape[2]

    def sides(self, height: int, width: int) -> Sides:
        """The padding of a map of a size."""
        return self.same_sides(height, width) if self.same else self.padding

    def same_sides(self, height: int, width: int) -> Sides:
        """Keras's padding "same" of a map of a size: where it is uneven, more of it at the end."""
        found = []
        for length, size in zip((height, width), self.kernel.shape[:2], strict=True):
            last = (-(-length // self.strides) - 1) * self.strides + self.dilation * (size - 1) + 1
            missing = max(last - length, 0)
            found.append((missing // 2, missing - missing // 2))
        return (found[0], found[1])

    def whole_bias(self, kernel: np.ndarray) -> np.ndarray:
        """The bias with the centre's part in it, for a kernel that was rounded."""
        if self.centre is None:
            return self.bias
        return (self.bias - np.einsum("hwio,i->o", kernel.astype("float64"), self.centre)).astype("float32")


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Operation):
    """`activation(x @ kernel + bias + summand)` over the last axis; kernel `[in, out]`.

    The summand, if there is one, is the second input.
    """

    kernel: np.ndarray
    bias: np.ndarray
    activation: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerNorm(Operation):
    """`(x - mean) / sqrt(variance + epsilon) * scale + shift`, mean and variance over the last axis."""

    scale: np.ndarray
    shift: np.ndarray
    epsilon: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens(Operation):
    """A map's positions as tokens, `[N, H, W, C]` to `[N, H*W, C]`, with their embeddings.

    With a class token it is `[N, 1 + H*W, C]`.
    """

    positions: np.ndarray
    """`[side, side, C]`; for a map of another size they are interpolated."""
    first: np.ndarray | None
    """The class token with its embedding, `[C]`, if there is one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(Operation):
    """Self-attention of queries, keys and values side by side, `[N, T, 3C]` to `[N, T, C]`."""

    heads: int
    scale: float
    """Of the products of queries and keys."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenPool(Operation):
    """Tokens to one vector, `[N, T, C]` to `[N, C]`: the first, or the mean or maximum from number `start` on."""

    kind: str
    start: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Activation(Operation):
    """A function of Keras's by name."""

    activation: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Operation):
    """The largest value or the mean of each window; padding has no part in a mean."""

    kind: str
    size: int
    strides: int
    padding: Sides = NO_PADDING
    same: bool = False
    """Keras's padding "same": at the end, where the windows need it."""
    edge: float = float("-inf")
    """What padding is to the largest value."""

    @property
    def non_negative(self) -> bool:
        return self.inputs[0].non_negative and (self.edge >= 0 or self.edge == float("-inf"))


@dataclass(frozen=True, eq=False, kw_only=True)
class GlobalPool(Operation):
    """The largest value or the mean of each channel: `[N, C]`, or `[N, 1, 1, C]` where it keeps the sides."""

    kind: str
    keep_sides: bool = False

    @property
    def non_negative(self) -> bool:
        return self.inputs[0].non_negative


@dataclass(frozen=True, eq=False, kw_only=True)
class Subsample(Operation):
    """Every `strides`-th pixel, with `before` and `after` new channels of zeros."""

    strides: int
    before: int = 0
    after: int = 0

    @property
    def non_negative(self) -> bool:
        return self.inputs[0].non_negative


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Operation):
    """`activation(x + y)`."""

    activation: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Operation):
    """`x * y`: a map and the gates of its channels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Operation):
    """The channels of its inputs, one after the other."""

    @property
    def non_negative(self) -> bool:
        return all(x.non_negative for x in self.inputs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Operation):
    """Its input as `[N, *shape]`."""

    shape: tuple[int, ...]

    @property
    def non_negative(self) -> bool:
        return self.inputs[0].non_negative


@dataclass(frozen=True, eq=False, kw_only=True)
class Held(Operation):
    """Its input, which something else reads as well, so that nothing is folded into it."""

    @property
    def non_negative(self) -> bool:
        return self.inputs[0].non_negative


@dataclass(frozen=True, eq=False, kw_only=True)
class Call(Operation):
    """A layer or operation of Keras that has no operation of its own here, in inference, in float32."""

    layer: Any
    weights: tuple[np.ndarray, ...]
    """Of the layer's variables."""
    place: Place | None = None
    """The call in the model, with what it has beside its inputs; None for the layer of its one input."""


COSTLY = Convolution | Dense | Scale | Add
"""What something may be folded into."""


def maps_of(*ends: Operation) -> list[Operation]:
    """Every operation that the ends need but the pixels: what has a range in int8, each lowering in the same order."""
    return [operation for operation in in_order(*ends) if operation.inputs]


def in_order(*ends: Operation) -> Iterator[Operation]:
    """Every operation that the ends need, each after its inputs and once."""
    seen: set[Operation] = set()
    stack = [(end, False) for end in reversed(ends)]
    while stack:
        operation, ready = stack.pop()
        if operation in seen:
            continue
        if ready:
            seen.add(operation)
            yield operation
        else:
            stack.append((operation, True))
            stack.extend((x, False) for x in reversed(operation.inputs))
