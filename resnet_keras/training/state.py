"""All that a run remembers from one step to the next, as a strategy's variables and as a checkpoint's arrays."""

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import UsageError

FIRST_LOSS_SCALE = 2.0**15


class TrainingState:
    """Weights, statistics, optimizer, running averages and counters of a run.

    On several replicas each has a copy. Copies of weights, slots and counters are equal, for each replica computes the
    same update; statistics of batch norm are each replica's own until `settle`.

    Args:
        network: the network; it is made under `strategy`.
        learning: paths of the weights that ever learn.
        slots: what the optimizer remembers of each of them.
        averaged: keep running averages.
        strategy: whose variables these are.
    """

    def __init__(
        self,
        network: keras.Model,
        learning: Container[str],
        slots: Sequence[str],
        averaged: bool,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self.network, self.strategy = network, strategy
        # A model's own order of all variables says nothing of what is frozen, so a checkpoint outlives unfreezing.
        self.variables = [v for v in network.variables if not _is_seed(v)]
        self.seeds = [v for v in network.variables if _is_seed(v)]
        self.weights = [v for v in self.variables if v.path in learning]
        self.statistics = [v for v in self.variables if _is_statistic(v)]
        with strategy.scope():
            self.slots = [tuple(_zeros_like(weight) for _ in slots) for weight in self.weights]
            self.averages = [self._copy_of(variable) for variable in self.variables] if averaged else []
            self.step = _counter(0, tf.int64)
            self.loss_scale = _counter(FIRST_LOSS_SCALE, tf.float32)
            self.steps_at_scale = _counter(0, tf.int64)
            self.bad_step = _counter(-1, tf.int64)
            self.rate_scale = _counter(1.0, tf.float32)
            # Each host's wish to stop, and whether any had it when the last step began.
            self.wants_stop = each_its_own(tf.constant(0.0), tf.VariableAggregation.SUM)
            self.stops = _counter(0.0, tf.float32)
            # Sum of losses, right answers and images of the epoch so far, each replica's own.
            self.totals = each_its_own(tf.zeros(3, tf.float64), tf.VariableAggregation.SUM)
        self._counters = {
            "step": self.step,
            "loss_scale": self.loss_scale,
            "steps_at_scale": self.steps_at_scale,
            "rate_scale": self.rate_scale,
        }
        self._slot_names = tuple(slots)
        self._settled = tf.function(lambda: strategy.run(self._take_means), autograph=False)

    def local(self, variable: Any) -> Any:
        """This replica's copy of a variable, inside `strategy.run`."""
        variable = getattr(variable, "value", variable) if isinstance(variable, keras.Variable) else variable
        if isinstance(self.strategy, tf.distribute.TPUStrategy):
            return variable  # which reads and writes each core's own
        copies = self.strategy.experimental_local_results(variable)
        if len(copies) == 1:
            return copies[0]
        replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return copies[replica % len(copies)]

    def check_that_all_agree(self) -> None:
        """Raise `UsageError` where hosts have read different checkpoints. All hosts call it."""
        if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return
        mean = self.strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.cast(self.step.read_value(), tf.float64), axis=None)
        if float(mean) != float(self.value_of(self.step)):
            raise UsageError("the hosts see different checkpoints; run_dir must be one folder that all of them see")

    def all_agree_to_stop(self, wanted: bool) -> bool:
        """Whether a host wanted to stop before the last step, so that all of them do so after the same one.

        One host stops when it wants to.
        """
        if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return wanted
        if wanted:
            self._assign(self.wants_stop, 1.0)
        return bool(self.value_of(self.stops))

    def set_rate_scale(self, scale: float) -> None:
        """Go on at this share of the learning rate."""
        self._assign(self.rate_scale, scale)

    def wait_for_all(self) -> None:
        """Return when every host has come here."""
        self.read_totals()

    def settle(self) -> None:
        """Give every replica the mean of all replicas' statistics: what a saved model has. All workers call it."""
        if self.strategy.num_replicas_in_sync > 1 and self.statistics:
            self._settled()

    def _take_means(self) -> None:
        own = [self.local(variable) for variable in self.statistics]
        own += [self.local(a) for v, a in zip(self.variables, self.averages, strict=False) if _is_statistic(v)]
        means = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in own]
        )
        for variable, mean in zip(own, means, strict=True):
            variable.assign(mean)

    def read_totals(self, everywhere: bool = True) -> np.ndarray:
        """Sums of losses, right answers and images: of all workers, who then all ask, or of this one alone."""
        if everywhere:
            return np.asarray(self.totals.read_value())
        return np.sum([copy.numpy() for copy in self.strategy.experimental_local_results(self.totals)], axis=0)

    def write_totals(self, totals: Any, mine: bool = True) -> None:
        """Set the sums: the first replica holds them all, where they are `mine` to hold."""
        for i, copy in enumerate(self.strategy.experimental_local_results(self.totals)):
            copy.assign(totals if mine and i == 0 else np.zeros(3))

    @contextlib.contextmanager
    def averages_in_place(self) -> Iterator[None]:
        """Within it the network's weights and statistics are the running averages, where there are any."""
        before = [self.value_of(variable) for variable in self.variables] if self.averages else []
        try:
            self.take_averages()
            yield
        finally:
            for variable, value in zip(self.variables, before, strict=False):
                self._assign(variable, value)

    def take_averages(self) -> None:
        """The running averages become the network's weights and statistics, for good."""
        for variable, average in zip(self.variables, self.averages, strict=False):
            self._assign(variable, self.value_of(average))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, by name."""
        arrays = {f"variable:{v.path}": self.value_of(v) for v in self.variables}
        for weight, slots in zip(self.weights, self.slots, strict=True):
            for name, slot in zip(self._slot_names, slots, strict=True):
                arrays[f"{name}:{weight.path}"] = self.value_of(slot)
        for variable, average in zip(self.variables, self.averages, strict=False):
            arrays[f"average:{variable.path}"] = self.value_of(average)
        return arrays | {name: self.value_of(counter) for name, counter in self._counters.items()}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `arrays` gave. Raises `UsageError` where it is of another network; then nothing is changed."""
        homes: dict[str, Any] = {f"variable:{v.path}": v for v in self.variables}
        for weight, slots in zip(self.weights, self.slots, strict=True):
            homes |= {f"{name}:{weight.path}": slot for name, slot in zip(self._slot_names, slots, strict=True)}
        for variable, average in zip(self.variables, self.averages, strict=False):
            homes[f"average:{variable.path}"] = average
        homes |= self._counters
        for name, home in homes.items():
            if name not in arrays or arrays[name].shape != tuple(home.shape):
                raise UsageError(f"the checkpoint is of another network or version: it has no {name} of {home.shape}")
        for name, home in homes.items():
            self._assign(home, arrays[name])
        self._assign(self.bad_step, -1)

    def _copy_of(self, variable: Any) -> tf.Variable:
        value = tf.convert_to_tensor(variable.value)
        if _is_statistic(variable):
            return each_its_own(value, tf.VariableAggregation.MEAN)
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


def _is_seed(variable: Any) -> bool:
    return "int" in variable.dtype


def _is_statistic(variable: Any) -> bool:
    """Whether batch norm changes it, and no gradient ever does."""
    return variable.path.rsplit("/", 1)[-1].startswith("moving_")


def each_its_own(value: tf.Tensor, together: tf.VariableAggregation) -> tf.Variable:
    """A variable of which each replica has its own value; read outside of them, it is their sum or mean."""
    options: dict[str, Any] = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": together}
    return tf.Variable(value, trainable=False, **options)


def _zeros_like(weight: Any) -> tf.Variable:
    return tf.Variable(tf.zeros(weight.shape, tf.float32), trainable=False)


def _counter(value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(value, trainable=False, dtype=dtype)
