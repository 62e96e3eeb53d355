"""Normalisation, with the constants of torch and the papers."""

import math
from typing import Any

import keras
from keras import ops

from resnet_keras.models.norm_names import Norm

BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5


def normalization(
    norm: Norm, channels: int, name: str, dtype: Any, gamma_initializer: str = "ones"
) -> keras.layers.Layer:
    """A norm as torch and the papers have it: epsilon 1e-5; batch norm takes a tenth of each batch into its statistics.

    Group norm has 32 groups where they divide the channels and leave two or more in each, else the next smaller power
    of two. `group1` is one group: over height, width and channels (Wu & He 2018, Figure 2, as layer norm).
    """
    common: dict[str, Any] = {"epsilon": BN_EPSILON, "gamma_initializer": gamma_initializer, "name": name}
    if norm in ("group", "group1"):
        groups = math.gcd(32, channels) if norm == "group" else 1
        return keras.layers.GroupNormalization(groups // 2 if 1 < groups == channels else groups, **common, dtype=dtype)
    return BatchNormalization(momentum=BN_MOMENTUM, synchronized=norm == "sync_batch", **common, dtype=dtype)


@keras.saving.register_keras_serializable("resnet_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, over `[N, H, W, C]` computed by TensorFlow's fused operation, forward and backward.

    Keras's own, which it is on other backends, is a dozen operations a pass, each of which goes over the whole map, in
    float32 under mixed precision: a third of a training step on CPU. The statistics stay Keras's: the moving variance
    is of biased batch variances.
    """

    def call(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        fusible = self.variable_dtype == "float32" and self.compute_dtype in ("float32", "bfloat16", "float16")
        fusible = fusible and keras.backend.backend() == "tensorflow"
        if len(x.shape) != 4 or mask is not None or self.synchronized or not fusible:
            return super().call(x, training=training, mask=mask)
        import tensorflow as tf

        learns = bool(training and self.trainable)
        # The raw operation, because tf.nn's clamps epsilon to 1.001e-5.
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=ops.convert_to_tensor(self.gamma),
            offset=ops.convert_to_tensor(self.beta),
            mean=[] if learns else ops.convert_to_tensor(self.moving_mean),
            variance=[] if learns else ops.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            count = tf.cast(tf.size(x) // x.shape[-1], "float32")
            biased = variance * ((count - 1) / count)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, biased)):
                moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return y
