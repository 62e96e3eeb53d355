"""`rk.Model`: what the builders return, a functional Keras model whose `fit` compiles under any strategy."""

from pathlib import Path
from typing import Any

import keras

from resnet_keras.models.signature import check_options, write_options

_Training: Any = type("_Training", (), {})  # Keras's own
if keras.backend.backend() == "tensorflow":
    from resnet_keras.models import replicas

    _Training = replicas.ReplicaTraining


@keras.saving.register_keras_serializable("resnet_keras")
class Model(_Training, keras.Model):
    """A functional `keras.Model`, `Model(inputs, outputs)`, that trains with XLA under any `tf.distribute` strategy.

    `compile`, `fit`, `evaluate`, `predict` and files are Keras's. `save_weights` writes into its file besides which
    options the blocks have, and `load_weights` refuses weights of blocks with others, which could have the same shapes.
    What differs, on TensorFlow:

    - `jit_compile=True` compiles the step on each replica; "auto", the default, does so on GPUs, where XLA is faster.
    - Several replicas have the gradients of the whole batch, whatever part of it each has, be it none; clipping and
      `gradient_accumulation_steps` work on these; and each replica drops something else.

    Raises:
        UsageError: (a ValueError) from `fit`, for synchronised norms that XLA would have to compile on several
            replicas, and for a model in which nothing is trainable; from `load_weights`, as above.

    Examples:
        >>> with tf.distribute.MirroredStrategy().scope():
        ...     model = rk.build_cifar_resnet(8, classifier_activation=None)
        ...     loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        ...     model.compile(keras.optimizers.AdamW(1e-3), loss, metrics=["accuracy"], jit_compile=False)
        >>> images, labels = np.random.rand(64, 32, 32, 3), np.random.randint(0, 10, 64)
        >>> history = model.fit(images, labels, batch_size=32, epochs=1, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'loss']
    """

    def save_weights(self, filepath: str | Path, *arguments: Any, **options: Any) -> None:
        """Keras's own; the file says besides which options of the network its weights are of."""
        super().save_weights(filepath, *arguments, **options)
        write_options(self, filepath)

    def load_weights(self, filepath: str | Path, *arguments: Any, **options: Any) -> None:
        """Keras's own. Raises `UsageError` for a file of a network of other options."""
        check_options(self, filepath)
        super().load_weights(filepath, *arguments, **options)
