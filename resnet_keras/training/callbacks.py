"""Callbacks of a run: Keras's own, called as `fit` calls them, and what a checkpoint keeps of them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup

BATCH_METHODS = ("on_train_batch_end", "on_batch_end")


class RunCallback(keras.callbacks.Callback):
    """A callback that knows its run. On several hosts only the first has them.

    `on_epoch_end` is called before the checkpoint is written: if the process dies between the two, the resumed run
    calls it again. The network then has the weights that were measured: the running averages where there are any.
    `on_train_begin` is called again when a run resumes, and after each rollback.

    Args:
        setup: of the run.
        record: its table and figures so far. `record.row` is that of the epoch which ends.
    """

    def __init__(self, setup: TrainingSetup, record: Record) -> None:
        super().__init__()
        self.setup, self.record = setup, record

    def on_results(self) -> None:
        """The run is over, finished or interrupted by hand; its model and `record.metrics` are written."""


MakeCallback = Callable[[TrainingSetup, Record], keras.callbacks.Callback]
"""Makes a callback of a run."""


def watches_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback does something at the end of each batch."""
    base = keras.callbacks.Callback
    return any(getattr(type(callback), name) is not getattr(base, name) for name in BATCH_METHODS)


def states_of(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[list[Any], dict[str, np.ndarray]]:
    """What a checkpoint keeps of callbacks: of each its class name and its plain attributes; and its arrays by name.

    Plain are numbers, texts, None, and lists and dicts of them. An attribute that is a list of arrays, such as the best
    weights of `EarlyStopping`, is kept too.
    """
    notes: list[Any] = []
    arrays: dict[str, np.ndarray] = {}
    for i, callback in enumerate(callbacks):
        kept, lists = {}, {}
        for name, value in vars(callback).items():
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
                lists[name] = len(value)
                arrays |= {f"callback:{i}:{name}:{j}": item for j, item in enumerate(value)}
            elif not name.startswith("_") and _is_plain(value):
                kept[name] = value
        notes.append({"class": type(callback).__name__, "plain": kept, "arrays": lists})
    return notes, arrays


def restore_states(callbacks: Sequence[keras.callbacks.Callback], notes: Sequence[Any], arrays: Any) -> None:
    """Give callbacks the attributes that `states_of` kept. Those of another class are left as they are."""
    for i, (callback, kept) in enumerate(zip(callbacks, notes, strict=False)):
        if kept["class"] != type(callback).__name__:
            continue
        for name, value in kept["plain"].items():
            setattr(callback, name, value)
        for name, count in kept["arrays"].items():
            setattr(callback, name, [arrays[f"callback:{i}:{name}:{j}"] for j in range(count)])


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)
