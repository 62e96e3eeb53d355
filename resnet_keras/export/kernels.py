"""Kernels that a servable keeps in files of their own, `variables/`, in place of constants of its graph.

A graph is copied some ten times over when a session first runs a signature, and three copies stay for each signature;
variables are in memory once for all. What speaks for constants: oneDNN keeps one in its own layout, and brings a
convolution's variable kernel into it anew in each step, which takes about a seventh of the time of one image. Of a
matrix product's nothing is seen (docs/results/export.md).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_keras.export.floating import emitted
from resnet_keras.export.operations import Convolution, Dense, Operation, in_order

VARIABLES = Path("variables", "variables")
"""Of a version folder, as every SavedModel has it: what the names of the files begin with."""
LEAST = 2**16
"""Bytes of a kernel that is worth a variable."""
MOST = {Dense: 2**24, Convolution: 2**27}
"""Bytes that the kernels of a kind may take together as constants."""


@dataclass(frozen=True)
class Kernels:
    """Writes operations into the default graph, as `emitted` does, some with a variable for a kernel."""

    stored: frozenset[Operation] = frozenset()
    """Whose kernels are variables."""
    variables: list[tf.Variable] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    """Of the variables."""

    def __call__(self, operation: Operation, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
        if operation not in self.stored:
            return emitted(operation, dtype, *inputs)
        assert isinstance(operation, Convolution | Dense)
        own = tf.float32 if operation.activation in ("softmax", "sigmoid") else dtype  # as a head computes
        value = operation.kernel.astype(own.as_numpy_dtype, copy=False)
        variable = tf.Variable(tf.zeros(value.shape, own), trainable=False, name=f"kernels/{len(self.values)}")
        self.variables.append(variable)
        self.values.append(value)
        return emitted(replace(operation, kernel=variable.value()), dtype, *inputs)


def kernels_of(ends: Iterable[Operation], dtype: tf.DType) -> Kernels:
    """Of a network's kinds of kernel, those that are too large for constants, in files."""
    stored: set[Operation] = set()
    with_kernels = [one for one in in_order(*ends) if isinstance(one, Convolution | Dense)]
    for kind, most in MOST.items():
        found = [one for one in with_kernels if isinstance(one, kind)]
        if sum(_size(one, dtype) for one in found) > most:
            # A centre is folded into the bias by the kernel's values, and a depthwise kernel is small.
            stored |= {one for one in found if _size(one, dtype) >= LEAST and _is_plain(one)}
    return Kernels(frozenset(stored))


def _size(operation: Convolution | Dense, dtype: tf.DType) -> int:
    return math.prod(operation.kernel.shape) * dtype.size


def _is_plain(operation: Convolution | Dense) -> bool:
    return isinstance(operation, Dense) or (operation.centre is None and operation.kernel.shape[2] > 1)


def write_values(variables: Sequence[tf.Variable], values: Sequence[np.ndarray], folder: Path) -> None:
    """Write the files of `VARIABLES`. Raises OSError where they cannot be written."""
    (folder / VARIABLES).parent.mkdir()
    try:
        with tf.device("CPU"):
            tf.raw_ops.SaveV2(
                prefix=str(folder / VARIABLES),
                tensor_names=[variable.op.name for variable in variables],
                shape_and_slices=[""] * len(values),
                tensors=[tf.constant(value) for value in values],
            )
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
