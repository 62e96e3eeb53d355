"""Callbacks of a run: Keras's own, called as `fit` calls them, and what a checkpoint keeps of them."""

import copy
from collections.abc import Callable, Mapping, Sequence
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

    def on_interrupted(self) -> None:
        """The run was interrupted, and its checkpoint is written."""

    def on_results(self) -> None:
        """The run is over, finished or interrupted by hand; its model and `record.metrics` are written."""


MakeCallback = Callable[[TrainingSetup, Record], keras.callbacks.Callback]
"""Makes a callback of a run."""


def watches_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback does something at the end of each batch."""
    base = keras.callbacks.Callback
    return any(getattr(type(callback), name) is not getattr(base, name) for name in BATCH_METHODS)


def plain_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """The attributes that are numbers, texts, None, or lists and dicts of them."""
    values = ((name, v.item() if isinstance(v, np.generic) else v) for name, v in vars(callback).items())
    return {name: copy.deepcopy(v) for name, v in values if not name.startswith("_") and _is_plain(v)}


def states_of(
    callbacks: Sequence[keras.callbacks.Callback], fresh: Sequence[Mapping[str, Any]]
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """What a checkpoint keeps of callbacks: the plain attributes that are no longer as in `fresh`, and lists of arrays.

    `fresh` are those of each when training began: what stays as it was is a setting, such as a patience, which a
    resumed run may have otherwise. Lists of arrays are such as the best weights of `EarlyStopping`.
    """
    notes: list[Any] = []
    arrays: dict[str, np.ndarray] = {}
    for i, (callback, before) in enumerate(zip(callbacks, fresh, strict=True)):
        now = plain_attributes(callback)
        kept = {name: value for name, value in now.items() if name not in before or before[name] != value}
        lists = {}
        for name, value in vars(callback).items():
            if isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
                lists[name] = len(value)
                arrays |= {f"callback:{i}:{name}:{j}": item for j, item in enumerate(value)}
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
