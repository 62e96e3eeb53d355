"""The state of a run from one step to the next, as a strategy's variables and as a checkpoint's arrays."""

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.models.replicas import local_copy
from resnet_keras.models.variables import roles_of
from resnet_keras.training.optimizers import built_optimizer, make_optimizer, rates_of
from resnet_keras.training.schedule import RunSchedule

FIRST_LOSS_SCALE = 2.0**15
ITERATION = "optimizer:iteration"
OWN_AVERAGE = "optimizer_average"
"""Of a weight, by the optimizer itself."""


class TrainingState:
    """Weights, batch_stats, optimizer, running averages and counters of a run.

    On several replicas each has a copy. The copies of weights, optimizer state and counters are equal, since each
    replica computes the same update; batch_stats differ between replicas until `sync_batch_stats`.

    Args:
        network: the network, made under `strategy`.
        config: of the run.
        strategy: owns the variables.
        total_steps: steps of the run, for the schedule.
        trainable: paths of the weights that are trained in any phase; those that are trainable now, when None.
        optimizer: takes the place of the config's, with its clipping and its rates.
        by_place: name variables in checkpoints by their place, not by their path: Keras numbers layers without a name
            anew each time a model is built.
    """

    def __init__(
        self,
        network: keras.Model,
        config: TrainConfig,
        strategy: tf.distribute.Strategy,
        total_steps: int,
        *,
        trainable: Container[str] | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        by_place: bool = False,
    ) -> None:
        if trainable is None:
            trainable = {variable.path for variable in network.trainable_variables}
        self.network, self.strategy = network, strategy
        # The model's order of all variables does not depend on what is frozen, so a checkpoint outlives unfreezing.
        self._roles = roles_of(network)
        self.variables = [v for v in network.variables if not self._roles.is_seed(v)]
        self._names = {v.path: f"{i}/{v.name}" if by_place else v.path for i, v in enumerate(self.variables)}
        self.seeds = self._roles.seeds
        self.weights = [v for v in self.variables if v.path in trainable]
        self.batch_stats = self._roles.batch_stats
        with strategy.scope():
            if optimizer is None:
                schedule = RunSchedule(config.optimizer.learning_rate, config.schedule, total_steps)
                self.optimizer = make_optimizer(config.optimizer, schedule, self.weights)
                self.rates = rates_of(config.optimizer, self.weights)
                self.clip_norm = config.optimizer.clip_norm
            else:
                self.optimizer, self.rates, self.clip_norm = built_optimizer(optimizer, self.weights), {}, 0.0
            self.averages = [self._copy_of(variable) for variable in self.variables] if config.ema else []
            self.step = _counter(0, tf.int64)
            self.loss_scale = _counter(FIRST_LOSS_SCALE, tf.float32)
            self.steps_at_scale = _counter(0, tf.int64)
            self.bad_step = _counter(-1, tf.int64)
            self.rate_scale = _counter(1.0, tf.float32)
            # Each host's request to stop, and whether there was any when the last step began.
            self.stop_requested = per_replica(tf.constant(0.0), tf.VariableAggregation.SUM)
            self.stop_agreed = _counter(0.0, tf.float32)
            # Sums of losses, correct images and images of the epoch so far, each replica's own.
            self.totals = per_replica(tf.zeros(3, tf.float64), tf.VariableAggregation.SUM)
        self._counters = {
            "step": self.step,
            "loss_scale": self.loss_scale,
            "steps_at_scale": self.steps_at_scale,
            "rate_scale": self.rate_scale,
        }
        self._sync = tf.function(lambda: strategy.run(self._take_means), autograph=False)

    def check_that_all_agree(self) -> None:
        """Raise `UsageError` if hosts have read different checkpoints. All hosts call it."""
        if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return
        mean = self.strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.cast(self.step.read_value(), tf.float64), axis=None)
        if float(mean) != float(self.value_of(self.step)):
            raise UsageError("the hosts see different checkpoints; run_dir must be one folder that all of them see")

    def all_agree_to_stop(self, requested: bool) -> bool:
        """Whether any host requested a stop before the last step, so that all of them stop after the same one.

        A single host stops at once.
        """
        if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return requested
        if requested:
            self._assign(self.stop_requested, 1.0)
        return bool(self.value_of(self.stop_agreed))

    @property
    def iteration(self) -> Any:
        """The optimizer's count of steps; its `iterations` are those in which it updates."""
        return self._optimizer_state[ITERATION]

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate)) * float(self.value_of(self.rate_scale))

    def set_rate_scale(self, scale: float) -> None:
        """Set the factor of the learning rate."""
        self._assign(self.rate_scale, scale)

    def wait_for_all(self) -> None:
        """Return when every host has called it."""
        self.read_totals()

    def sync_batch_stats(self) -> None:
        """Set each replica's batch_stats to the mean of all replicas, as a saved model has them. All hosts call it."""
        if self.strategy.num_replicas_in_sync > 1 and self.batch_stats:
            self._sync()

    def _take_means(self) -> None:
        own = [local_copy(variable) for variable in self.batch_stats]
        own += [
            local_copy(a) for v, a in zip(self.variables, self.averages, strict=False) if self._roles.is_batch_stat(v)
        ]
        means = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in own]
        )
        for variable, mean in zip(own, means, strict=True):
            variable.assign(mean)

    def read_totals(self, everywhere: bool = True) -> np.ndarray:
        """Sums of losses, correct images and images: of all hosts, which must all call it, or of this host alone."""
        if everywhere:
            return np.asarray(self.totals.read_value())
        return np.sum([copy.numpy() for copy in self.strategy.experimental_local_results(self.totals)], axis=0)

    def write_totals(self, totals: Any, mine: bool = True) -> None:
        """Set the sums: on the first replica of the host that is `mine`, zero elsewhere."""
        for i, copy in enumerate(self.strategy.experimental_local_results(self.totals)):
            copy.assign(totals if mine and i == 0 else np.zeros(3))

    @contextlib.contextmanager
    def averages_in_place(self) -> Iterator[None]:
        """Within it the network's weights and batch_stats are the running averages, if there are any."""
        before = [self.value_of(variable) for variable in self.variables] if self.averages else []
        try:
            self.take_averages()
            yield
        finally:
            for variable, value in zip(self.variables, before, strict=False):
                self._assign(variable, value)

    def finish(self) -> None:
        """Replace the weights by what the run is for: the running averages, or those of an optimizer with `use_ema`."""
        self.take_averages()
        state = self._optimizer_state
        for weight in self.weights if not self.averages else []:
            if (average := state.get(f"{OWN_AVERAGE}:{self._names[weight.path]}")) is not None:
                self._assign(weight, self.value_of(average))

    def take_averages(self) -> None:
        """Replace the network's weights and batch_stats by the running averages."""
        for variable, average in zip(self.variables, self.averages, strict=False):
            self._assign(variable, self.value_of(average))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, by name."""
        arrays = {f"variable:{self._names[v.path]}": self.value_of(v) for v in self.variables}
        arrays |= {name: self.value_of(v) for name, v in self._optimizer_state.items()}
        for variable, average in zip(self.variables, self.averages, strict=False):
            arrays[f"average:{self._names[variable.path]}"] = self.value_of(average)
        return arrays | {name: self.value_of(counter) for name, counter in self._counters.items()}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set everything from `arrays()`. Raises `UsageError`, and changes nothing, if they are of another network."""
        by_name: dict[str, Any] = {f"variable:{self._names[v.path]}": v for v in self.variables}
        by_name |= self._optimizer_state
        for variable, average in zip(self.variables, self.averages, strict=False):
            by_name[f"average:{self._names[variable.path]}"] = average
        by_name |= self._counters
        if "step" in arrays:  # 0.1 wrote the one for both
            arrays = {ITERATION: arrays["step"], **arrays}
        for name, variable in by_name.items():
            if name not in arrays or arrays[name].shape != tuple(variable.shape):
                raise UsageError(
                    f"the checkpoint is of another network, optimizer or version: it has no {name} of {variable.shape}"
                )
        for name, variable in by_name.items():
            self._assign(variable, arrays[name])
        self._assign(self.bad_step, -1)

    @cached_property
    def _optimizer_state(self) -> dict[str, Any]:
        """The optimizer's variables, by their kind and the path of their weight: as checkpoints name them."""
        paths = {weight.path.replace("/", "_"): self._names[weight.path] for weight in self.weights}
        found: dict[str, Any] = {}
        for variable in self.optimizer.variables:
            parts = variable.name.split("_")
            ends = (i for i in range(len(parts) - 1, 0, -1) if "_".join(parts[:i]) in paths)
            if end := next(ends, 0):
                kind = "_".join(parts[end:])
                name = f"{OWN_AVERAGE if kind == 'average' else kind}:{paths['_'.join(parts[:end])]}"
            else:
                name = f"optimizer:{variable.name}"
            found[f"{name}:{len(found)}" if name in found else name] = variable
        return found

    def _copy_of(self, variable: Any) -> tf.Variable:
        value = tf.convert_to_tensor(variable.value)
        if self._roles.is_batch_stat(variable):
            return per_replica(value, tf.VariableAggregation.MEAN)
        return tf.Variable(value, trainable=False)

    def _copies(self, variable: Any) -> Sequence[Any]:
        return self.strategy.experimental_local_results(
            variable.value if isinstance(variable, keras.Variable) else variable
        )

    def value_of(self, variable: Any) -> np.ndarray:
        """The first copy of a variable."""
        return self._copies(variable)[0].numpy()

    def _assign(self, variable: Any, value: Any) -> None:
        for copy in self._copies(variable):
            copy.assign(value)


def per_replica(value: tf.Tensor, together: tf.VariableAggregation) -> tf.Variable:
    """A variable with a value of its own on each replica; read outside of replicas, it is their sum or mean."""
    options: dict[str, Any] = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": together}
    return tf.Variable(value, trainable=False, **options)


def _counter(value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=dtype)
