"""The record of a run: its table, a row an epoch, and what was measured last."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import HISTORY
from resnet_keras.config.table import EpochRow
from resnet_keras.files import write_text
from resnet_keras.inference.evaluate import Evaluation

COLUMNS: tuple[str, ...] = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "split",
)


@dataclass
class Record:
    """The table of a run, and where it stands."""

    folder: Path
    rows: list[EpochRow] = field(default_factory=list)
    row: EpochRow = field(default_factory=dict)
    """Of the epoch that ends, before it is one of `rows`."""
    evaluation: Evaluation | None = None
    """Of the epoch that ended last, None if it was not measured; at the end, of the run: on the test split, unless the
    config does without."""
    validation: Evaluation | None = None
    """Of the run, at its end, on its validation images."""
    uncalibrated: Evaluation | None = None
    """As `evaluation`, before the temperature; None without calibration."""
    step: int = 0
    """Steps done."""
    stopped: bool = False
    """A callback has set `model.stop_training`."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of the run, at its end."""

    def write_table(self) -> None:
        """Write `metrics.csv` anew."""
        text, columns = io.StringIO(), dict.fromkeys([*COLUMNS, *(name for row in self.rows for name in row)])
        table = csv.DictWriter(text, list(columns), lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.folder / HISTORY, text.getvalue())


def best_epoch(rows: Sequence[EpochRow]) -> int | None:
    """The number of the epoch with the best `val_accuracy`, and of several with the least `val_loss`, and the first.

    In place of the accuracy that of several labels an image has its `val_mean_average_precision`. None where no epoch
    was measured.
    """
    measured = [row for row in rows if row["val_accuracy"] is not None]
    score = "val_mean_average_precision"
    best = max(measured, key=lambda row: (row.get(score, row["val_accuracy"]), -row["val_loss"]), default=None)
    return None if best is None else int(best["epoch"])
