"""Curves of finished runs beside one another: accuracy by minutes of training, as docs/results shows them.

Command: python -m benchmarks.curves RUN_FOLDER ... --output FILE.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import tyro
from matplotlib.figure import Figure

from resnet_keras.config.table import read_table
from resnet_keras.reports.plots import COLOURS

mpl.use("Agg")


@dataclass
class Arguments:
    """Draw the accuracy of finished runs by minutes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    output: Path
    title: str = ""


def main(arguments: Arguments) -> None:
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for colour, run in zip(COLOURS, arguments.runs, strict=False):
        rows = read_table(run)
        seconds = [row["seconds"] for row in rows]
        minutes = [sum(seconds[: i + 1]) / 60 for i in range(len(rows))]
        tested = [
            (minute, 100 * row["val_accuracy"])
            for minute, row in zip(minutes, rows, strict=True)
            if row["val_accuracy"] is not None
        ]
        train = [100 * row["accuracy"] for row in rows]
        label = f"{run.name}, test: {tested[-1][1]:.1f} %"
        axes.plot(*zip(*tested, strict=True), color=colour, marker="o", markersize=4, label=label)
        axes.plot(minutes, train, color=colour, linestyle="--", linewidth=1, label=f"{run.name}, training, augmented")
    axes.set_xlabel("minutes, tests included")
    axes.set_ylabel("accuracy, %")
    axes.set_title(arguments.title)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
