"""Callbacks of a run. On the first host the loop calls them; the rest of the run does not depend on them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.training.record import EpochRow
from resnet_keras.training.setup import TrainingSetup


class Callback:
    """Base class of callbacks. Every method does nothing by default."""

    def on_train_begin(self, step: int) -> None:
        """The run starts, or resumes, after `step` steps. Called again after each rollback."""

    def on_train_batch_end(self, step: int, totals: np.ndarray | None) -> None:
        """`step` steps are done.

        Args:
            step: steps of the run so far.
            totals: float64 [3], the sums over the epoch so far (loss, correct images, images); None between two reads
                of the devices.
        """

    def on_epoch_model(self, network: keras.Model, rows: Sequence[EpochRow]) -> None:
        """An epoch is measured, and its checkpoint not yet written.

        If the process dies before the checkpoint is written, the resumed run calls it again.

        Args:
            network: has the weights that were measured: the running averages where there are any.
            rows: the rows of all epochs; the last one is new.
        """

    def on_epoch_end(self, row: EpochRow, test: Evaluation | None) -> None:
        """An epoch is over, and its checkpoint is written. `test`: None where the epoch was not tested."""

    def on_train_end(self, test: Evaluation, metrics: dict[str, Any], rows: Sequence[EpochRow]) -> None:
        """The run is over, finished or interrupted by hand, and its model is written."""


MakeCallback = Callable[[TrainingSetup], Callback]
"""Makes the callback of a run."""
