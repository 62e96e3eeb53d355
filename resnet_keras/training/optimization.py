"""SGD with coupled weight decay and a rate for each layer, and a learning rate written as fractions of the run."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from resnet_keras.config import Optimizer, Schedule


@keras.saving.register_keras_serializable("resnet_keras")
class CoupledSGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in the papers: `g + weight_decay * w`, then momentum.

    Keras's own `weight_decay` is decoupled (AdamW's kind). Only tensors of two dimensions or more decay: kernels, never
    biases, gammas and betas.

    Args:
        learning_rate: a number or a schedule.
        coupled_weight_decay: the decay.
        layer_decay: share of the rate of the next layer that each layer of the model learns at; the last learns at the
            full rate. A residual block is one layer, and frozen layers do not count.
        **kwargs: as in `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        coupled_weight_decay: float = 0.0,
        layer_decay: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.coupled_weight_decay, self.layer_decay = coupled_weight_decay, layer_decay

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        # A variable's path starts with the name of its layer, and the layers are in the model's order.
        layers = [variable.path.split("/")[0] for variable in variables]
        depth = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
        self.rate_factors = [self.layer_decay ** (len(depth) - 1 - depth[layer]) for layer in layers]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self.coupled_weight_decay and len(variable.shape) > 1:
            gradient = gradient + ops.cast(self.coupled_weight_decay, gradient.dtype) * variable
        if self.layer_decay != 1:
            learning_rate = learning_rate * self.rate_factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        own = {"coupled_weight_decay": self.coupled_weight_decay, "layer_decay": self.layer_decay}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("resnet_keras")
class RunSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate at each step of a run of `total_steps`: `peak` times the factor that `schedule` describes."""

    def __init__(self, peak: float, total_steps: int, schedule: Schedule | dict[str, Any]) -> None:
        self.peak, self.total_steps = peak, total_steps
        if isinstance(schedule, dict):
            schedule = Schedule(**{**schedule, "milestones": tuple(schedule["milestones"])})
        self.schedule = schedule

    def __call__(self, step: Any) -> Any:
        schedule = self.schedule
        progress = ops.cast(step, "float32") / self.total_steps
        factor = ops.ones(())
        if schedule.decay == "step":
            for milestone in schedule.milestones:
                factor = ops.where(progress >= milestone, factor * schedule.factor, factor)
        elif schedule.decay != "constant":
            after_warmup = ops.clip((progress - schedule.warmup) / (1 - schedule.warmup), 0.0, 1.0)
            factor = 1 - after_warmup if schedule.decay == "linear" else (1 + ops.cos(after_warmup * 3.14159265)) / 2
        if schedule.warmup:
            # The first step already moves: (step + 1) of the warm-up's steps.
            rising = (progress + 1 / self.total_steps) / schedule.warmup
            factor = ops.where(progress < schedule.warmup, ops.minimum(rising, 1.0), factor)
        return self.peak * factor

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "total_steps": self.total_steps, "schedule": vars(self.schedule)}


def make_optimizer(config: Optimizer, schedule: Schedule, total_steps: int) -> CoupledSGD:
    """The optimizer of a run of `total_steps`."""
    return CoupledSGD(
        RunSchedule(config.learning_rate, total_steps, schedule),
        coupled_weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
