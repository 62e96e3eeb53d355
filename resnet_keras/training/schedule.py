"""The learning rate along a run."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from resnet_keras.config.train import Schedule


@keras.saving.register_keras_serializable("resnet_keras")
class RunSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The schedule of a run, as Keras's optimizers take it.

    Args:
        peak: the learning rate that the schedule scales.
        schedule: a `Schedule`, or its fields.
        total_steps: of the run.
    """

    def __init__(self, peak: float, schedule: Schedule | dict[str, Any], total_steps: int) -> None:
        self.peak, self.total_steps = peak, total_steps
        self.schedule = schedule if isinstance(schedule, Schedule) else Schedule(**schedule)

    def __call__(self, step: Any) -> tf.Tensor:
        return rate_at(step, self.peak, self.schedule, self.total_steps)

    def resets_momentum(self, step: Any) -> tf.Tensor:
        """Whether the momentum starts from zero in a step: the first behind a milestone, where the schedule says so."""
        if not self.schedule.reset_momentum:
            return tf.constant(False)
        before, now = (tf.cast(step - back, tf.float32) / self.total_steps for back in (1, 0))
        return tf.reduce_any([(before < m) & (now >= m) for m in self.schedule.milestones])

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "schedule": dataclasses.asdict(self.schedule), "total_steps": self.total_steps}


def rate_at(step: Any, peak: float, schedule: Schedule, total_steps: int) -> tf.Tensor:
    """The learning rate of a step, counted from 0, of a run of `total_steps`: `peak` times the schedule's factor."""
    progress = tf.cast(step, tf.float32) / total_steps
    factor = tf.constant(1.0)
    if schedule.decay == "step":
        for milestone in schedule.milestones:
            factor = tf.where(progress >= milestone, factor * schedule.factor, factor)
    elif schedule.decay != "constant":
        start = schedule.warmup if schedule.warmup_prefix else 0.0
        left = 1 - tf.clip_by_value((progress - start) / (1 - start), 0.0, 1.0)
        if schedule.decay == "cosine":
            factor = (1 - tf.cos(math.pi * left)) / 2
        else:
            factor = left**schedule.power if schedule.decay == "poly" else left
        factor = schedule.floor + (1 - schedule.floor) * factor
    if schedule.warmup:
        start = schedule.warmup_from
        if schedule.warmup_shape == "constant":
            rising = tf.constant(start)
        else:
            # The first step already moves: (step + 1) of the warm-up's steps.
            climbed = (progress + 1 / total_steps) / schedule.warmup
            rising = start + (1 - start) * tf.minimum(climbed, 1.0)
        factor = tf.where(progress < schedule.warmup, rising, factor)
    return peak * factor
