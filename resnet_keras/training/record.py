"""What a run writes at the end of each epoch: its row of the table, its model, and the best one yet."""

import csv
import io
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from resnet_keras.config.run_folder import BEST, HISTORY, MODEL
from resnet_keras.files import atomic_write, write_text
from resnet_keras.models.saved import save_model

COLUMNS: tuple[str, ...] = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
Row = dict[str, Any]
"""Column to number; None for the test's columns where an epoch was not tested."""


@dataclass
class Record:
    """The table of a run, a row an epoch, and its models."""

    folder: Path
    rows: list[Row] = field(default_factory=list)

    def write_model(self, row: Row, network: keras.Model) -> None:
        """Write `model.keras`, and `checkpoints/best.keras` where no epoch before was as good on the test split."""
        save_model(network, self.folder / MODEL)
        before = (row["val_accuracy"] for row in self.rows if row["val_accuracy"] is not None)
        if row["val_accuracy"] is not None and row["val_accuracy"] > max(before, default=-1.0):
            best = self.folder / BEST
            best.parent.mkdir(exist_ok=True)
            with atomic_write(best) as beside:
                shutil.copyfile(self.folder / MODEL, beside)

    def write_table(self) -> None:
        """Write `metrics.csv` anew."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({name: row[name] for name in COLUMNS} for row in self.rows)
        write_text(self.folder / HISTORY, text.getvalue())


def read_table(folder: Path) -> list[Row]:
    """The table of a run, a row an epoch."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
