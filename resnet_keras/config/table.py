"""`metrics.csv`, the table of a run. Standard library only."""

import csv
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import HISTORY

EpochRow = dict[str, Any]
"""Column to number; None in those of `val_` where an epoch was not measured.

`split` says on which images `val_` is: validation, or test where a run has no validation images. Metrics of the user's
own come last, and are left out where an epoch was not measured.
"""


def read_table(folder: Path) -> list[EpochRow]:
    """The table of a run folder. One of 0.1 has no `split`."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(name: str, text: str) -> float | str | None:
    return text if name == "split" else float(text) if text else None
