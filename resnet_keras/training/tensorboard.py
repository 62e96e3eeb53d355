"""The TensorBoard log of a run: curves, norms by stage, images as the network sees them, confusion, HParams."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from resnet_keras.config.command import changed_fields
from resnet_keras.config.run_folder import LOGS
from resnet_keras.config.train import TrainConfig, flat
from resnet_keras.reports.plots import LARGEST_CONFUSION, draw_confusion, png_of
from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.phases import phases_of, view_of_size
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup

RESULT = "result"
"""The part of the log that HParams shows: it has nothing else, so its columns are hyperparameters and the result."""

IMAGES = 16
NORM_IMAGES = 256
"""Most images of a batch over which the norms of the gradient are taken."""


ALWAYS = ("model", "epochs", "batch_size", "learning_rate")
"""Hyperparameters that are shown of every run."""


def hparams_of(config: TrainConfig) -> dict[str, int | float | str]:
    """What HParams shows of a config: a few fields always, the others where they are not the recipe's."""
    fields = flat(config)
    shown = {name: fields[name] for name in (*ALWAYS, *changed_fields(config)) if name != "data_dir"}
    return {name: value if isinstance(value, int | float) else str(value) for name, value in shown.items()}


class TensorBoardLog(RunCallback):
    """Writes `tensorboard/train`, of what is measured `validation` or `test`, and for HParams `result`."""

    def __init__(self, setup: TrainingSetup, record: Record) -> None:
        super().__init__(setup, record)
        self.folder = record.folder / LOGS
        self.writers: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        step = self.record.step
        self.writers = {
            part: tf.summary.create_file_writer(str(self.folder / part))
            for part in ("train", self.setup.source.measured_name, RESULT)
        }
        self.batch = self._some_batch(step)
        with self.writers["train"].as_default(step):
            tf.summary.image("batch as the network sees it", self._images(), max_outputs=IMAGES)
        with self.writers[RESULT].as_default(step):
            # Else runs of the same hyperparameters are one row, with the mean of their results.
            name = f"{self.record.folder.name} ({self.record.folder.parent})"
            hparams.hparams(hparams_of(self.setup.config), trial_id=name)
        for writer in self.writers.values():
            writer.flush()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not logs:
            return
        with self.writers["train"].as_default(self.record.step):
            tf.summary.scalar("running_loss", logs["loss"])
            tf.summary.scalar("running_accuracy", logs["accuracy"])
            tf.summary.scalar("learning_rate", self.setup.state.learning_rate)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row, test = self.record.row, self.record.evaluation
        with self.writers["train"].as_default(epoch):
            for name in ("loss", "accuracy", "learning_rate"):
                tf.summary.scalar(f"epoch_{name}", row[name])
            tf.summary.scalar("images_per_second", self._images_of_an_epoch() / row["seconds"])
            for name, (weight, gradient) in self._norms().items():
                tf.summary.scalar(f"weight_norm/{name}", weight)
                tf.summary.scalar(f"gradient_norm/{name}", gradient)
        if test:
            with self.writers[self.setup.source.measured_name].as_default(epoch):
                tf.summary.scalar("epoch_loss", test.loss)
                tf.summary.scalar("epoch_accuracy", test.accuracy)
                if test.several:
                    tf.summary.scalar("epoch_mean_average_precision", test.several.mean_average_precision)
                elif len(test.labels) <= LARGEST_CONFUSION:
                    tf.summary.image("confusion", tf.io.decode_png(png_of(draw_confusion(test)))[None])
        for writer in self.writers.values():
            writer.flush()

    def on_results(self) -> None:
        """How the run ended, on each split that was measured then."""
        metrics = self.record.metrics
        splits = {
            metrics["split"]: metrics,
            **({"validation": metrics["validation"]} if "validation" in metrics else {}),
        }
        with self.writers[RESULT].as_default(self.record.step):
            for split, measured in splits.items():
                for name in ("accuracy", "loss"):
                    tf.summary.scalar(f"{split}_{name}", measured[name])
        self.writers[RESULT].flush()

    def _images_of_an_epoch(self) -> int:
        return self.setup.steps_per_epoch * self.setup.config.batch_size

    def _some_batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The next batch of the run, or the first replica's part of it."""
        setup = self.setup
        epoch = min(step // setup.steps_per_epoch, setup.config.epochs - 1)
        phase = next(phase for phase in phases_of(setup.config) if epoch < phase.last)
        self.network = view_of_size(setup.trained, phase.size)
        own = next(setup.batches(phase, step, step + 1))
        images, labels = (setup.strategy.experimental_local_results(part)[0].numpy()[:NORM_IMAGES] for part in own)
        return images, labels

    def _images(self) -> np.ndarray:
        """Augmented and mixed, before the network's own normalisation."""
        return self.batch[0][:IMAGES].clip(0, 255).astype("uint8")

    def _norms(self) -> dict[str, tuple[float, float]]:
        """Norm of the weights and of the gradient of each stage, over one batch, in inference mode."""
        network = self.setup.trained
        with tf.GradientTape() as tape:
            logits = self.network(self.batch[0], training=False)
            step, labels = self.setup.step, tf.constant(self.batch[1])
            loss = tf.reduce_mean(step.losses(logits, labels, step.taught(self.batch[0])))
        weights = network.trainable_variables
        gradients: Any = tape.gradient(loss, [weight.value for weight in weights])
        squares: dict[str, list[float]] = {}
        for weight, gradient in zip(weights, gradients, strict=True):
            sums = squares.setdefault(weight.path.split("/")[0].split("_")[0], [0.0, 0.0])
            sums[0] += float(keras.ops.sum(keras.ops.square(weight)))
            sums[1] += float(tf.reduce_sum(gradient**2))
        return {stage: (math.sqrt(weight), math.sqrt(gradient)) for stage, (weight, gradient) in squares.items()}
