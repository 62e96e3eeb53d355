"""The record of a run: its table, a row an epoch, and what was measured last."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import HISTORY
from resnet_keras.files import write_text
from resnet_keras.inference.evaluate import Evaluation

COLUMNS: tuple[str, ...] = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
EpochRow = dict[str, Any]
"""Column to number; None in the columns of the test where an epoch was not tested.

Metrics of the user's own come last, and are left out there.
"""


@dataclass
class Record:
    """The table of a run, and where it stands."""

    folder: Path
    rows: list[EpochRow] = field(default_factory=list)
    row: EpochRow = field(default_factory=dict)
    """Of the epoch that ends, before it is one of `rows`."""
    evaluation: Evaluation | None = None
    """Of the epoch that ended last, None if it was not tested; at the end, of the run."""
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


def read_table(folder: Path) -> list[EpochRow]:
    """The table of a run folder."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
