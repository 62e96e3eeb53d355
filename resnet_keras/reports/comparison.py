"""Runs side by side on one page: curves over each other, metrics, and what differs in their configs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import HISTORY, METRICS, run_config
from resnet_keras.config.table import EpochRow, read_table
from resnet_keras.config.train import TrainConfig, flat
from resnet_keras.errors import UsageError, reason
from resnet_keras.files import read_json, writing_to
from resnet_keras.reports.drawing import Line, draw_panel
from resnet_keras.reports.html import Cell, cell, spaced, write_page
from resnet_keras.reports.plots import COLOURS

MORE_IS_BETTER = {"mean_average_precision": True, "accuracy": True, "top5_accuracy": True, "loss": False}
"""The metrics that are compared; those that no run has are left out."""
NAMES = {
    "mean_average_precision": "mean average precision",
    "accuracy": "accuracy",
    "top5_accuracy": "top 5",
    "loss": "loss",
}
NEEDED = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
PLACE = {"run_dir"}
"""Fields in which any two runs differ."""


@dataclass(frozen=True)
class Run:
    """A run that was read from its folder."""

    name: str
    folder: str
    """As it was given."""
    config: TrainConfig
    metrics: dict[str, Any]
    rows: list[EpochRow]

    @property
    def split(self) -> str:
        """Of its metrics. In 0.1 there was none but test, or validation in its place."""
        return self.metrics.get("split", "test" if self.config.final_test else "validation")

    @property
    def measured_on(self) -> tuple[Any, ...]:
        """What says whether two runs are measured on the same images, as far as a run says it."""
        return self.split, self.config.data, self.metrics["examples"]


@dataclass(frozen=True)
class Comparison:
    """Runs, in the order in which they were given."""

    runs: list[Run]

    @property
    def comparable(self) -> bool:
        """Whether all are measured on the same images."""
        return len({run.measured_on for run in self.runs}) == 1

    @property
    def names(self) -> list[str]:
        """The metrics that a run has."""
        found = {name for run in self.runs for name in self.figures_of(run)}
        return [name for name in MORE_IS_BETTER if name in found]

    def figures_of(self, run: Run) -> dict[str, float]:
        return {name: run.metrics[name] for name in MORE_IS_BETTER if run.metrics.get(name) is not None}

    def is_best(self, run: Run, name: str) -> bool:
        """Whether no run is better in a metric, and one is worse; never where the images are not the same."""
        values = [self.figures_of(one).get(name) for one in self.runs]
        known = [value for value in values if value is not None]
        own = self.figures_of(run).get(name)
        if own is None or not self.comparable or len(set(known)) < 2:
            return False
        return own == (max if MORE_IS_BETTER[name] else min)(known)

    @property
    def differences(self) -> dict[str, list[Any]]:
        """The fields of the configs that are not the same in all runs: the value in each."""
        configs = [flat(run.config) for run in self.runs]
        fields = {name: [config[name] for config in configs] for name in configs[0] if name not in PLACE}
        return {name: values for name, values in fields.items() if any(value != values[0] for value in values)}

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before he compares."""
        found = []
        if not self.comparable:
            what = ", ".join(
                f"{run.name} on {run.metrics['examples']:,} {run.split} images of {run.config.data}"
                for run in self.runs
            )
            found.append(f"the runs are not measured on the same images, so none is marked as the best: {what}")
        stopped = [run.name for run in self.runs if run.metrics.get("interrupted")]
        if stopped:
            found.append(f"interrupted before the end: {', '.join(stopped)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the runs with their metrics, the best in each metric, the differing fields, the warnings.

        Runs of earlier versions do not have all: `date`, `parameters` and `top5_accuracy` may be None or not there.
        """
        runs = [
            {
                "run": run.name,
                "run_dir": run.folder,
                "date": run.metrics.get("date"),
                "model": run.config.model,
                "parameters": run.metrics.get("parameters"),
                "split": run.split,
                **self.figures_of(run),
                "examples": run.metrics["examples"],
                "epochs": len(run.rows),
                "seconds": _seconds(run),
                "interrupted": bool(run.metrics.get("interrupted")),
            }
            for run in self.runs
        ]
        best = {name: [run.name for run in self.runs if self.is_best(run, name)] for name in self.names}
        return {"runs": runs, "best": best, "differences": self.differences, "warnings": self.warnings}


def compare(folders: Sequence[str]) -> Comparison:
    """Read runs from their folders.

    Raises:
        UsageError: a folder that is no run, or one of a run that is not finished or damaged.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    same = {path.resolve() for path in paths}
    if len(same) < len(paths):
        raise UsageError("a run is given twice; give different run folders")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return Comparison([_read(path, name, str(given)) for path, name, given in zip(paths, names, folders, strict=True)])


def _read(folder: Path, name: str, given: str) -> Run:
    config = run_config(folder)
    if config is None:
        raise UsageError(f"{folder} is no run folder: it has no config.json; give one that resnet-keras train wrote")
    if not (folder / METRICS).is_file():
        raise UsageError(f"{folder} is not finished: it has no {METRICS}; resnet-keras train {folder} resumes it")
    mend = f"resnet-keras train {folder} resumes the run from its last checkpoint"
    metrics = read_json(folder / METRICS, mend)
    for key in ("accuracy", "loss", "examples"):
        if not isinstance(metrics.get(key), int | float) and not (key == "loss" and key in metrics):
            raise UsageError(f"{folder / METRICS} has no number for {key}; {mend}")
    try:
        rows = read_table(folder)
        missing = [column for row in rows for column in NEEDED if column not in row]
        empty = [column for row in rows for column in ("epoch", "seconds") if row.get(column) is None]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{folder / HISTORY} cannot be read: {reason(error)}; {mend}") from error
    if missing or empty:
        raise UsageError(f"{folder / HISTORY} is damaged: a row has no {(missing or empty)[0]}; {mend}")
    return Run(name, given, config, metrics, rows)


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the page, whole or not at all."""
    runs = found.runs
    splits = {run.split for run in runs}
    measured = splits.pop() if len(splits) == 1 else "Measured"
    # Runs beyond the colours have them again, dashed.
    styles = [(i % len(COLOURS), i >= len(COLOURS)) for i in range(len(runs))]
    panels = [
        ("Training loss (nats)", "loss", 1),
        (f"{_measured_name(runs)} loss (nats)", "val_loss", 1),
        ("Training accuracy (%)", "accuracy", 100),
        (f"{_measured_name(runs)} accuracy (%)", "val_accuracy", 100),
        ("Learning rate at the epoch's end", "learning_rate", 1),
    ]
    with writing_to(path.parent):
        write_page(
            path,
            "comparison.html",
            title=f"Comparison of {len(runs)} runs",
            summary=f"{', '.join(run.name for run in runs)}.",
            warnings=found.warnings,
            metrics={
                "head": [
                    "Run",
                    "Model",
                    "Parameters",
                    *(f"{measured} {NAMES[name]}".capitalize() for name in found.names),
                    "Epochs",
                    "Seconds",
                    "Date",
                ],
                "rows": [_row(found, run) for run in runs],
            },
            starred=any(found.is_best(run, name) for run in runs for name in MORE_IS_BETTER),
            lines=[(run.name, *style) for run, style in zip(runs, styles, strict=True)],
            curves=[
                draw_panel(title, [_line(run, name, scale, style) for run, style in zip(runs, styles, strict=True)])
                for title, name, scale in panels
            ],
            names=[run.name for run in runs],
            differences={spaced(name): values for name, values in found.differences.items()},
        )


def _measured_name(runs: Sequence[Run]) -> str:
    """What the curves of `val_` are of."""
    splits = {run.rows[-1].get("split") or "test" for run in runs if run.rows}
    return " and ".join(sorted(splits)).capitalize() or "Test"


def _row(found: Comparison, run: Run) -> list[tuple[Cell, bool]]:
    figures = found.figures_of(run)
    parameters = run.metrics.get("parameters")
    cells = [(Cell(run.name), False), (Cell(run.config.model), False), (cell(parameters), False)]
    for name in found.names:
        value = figures.get(name)
        text = "" if value is None else f"{value:.4f}" if name == "loss" else f"{value:.2%}"
        cells.append((Cell(text, value), found.is_best(run, name)))
    return [
        *cells,
        (Cell(f"{len(run.rows)}", len(run.rows)), False),
        (Cell(f"{_seconds(run):,.1f}", _seconds(run)), False),
        (Cell(run.metrics.get("date") or ""), False),
    ]


def _line(run: Run, name: str, scale: float, style: tuple[int, bool]) -> Line:
    values = [(row["epoch"], row[name]) for row in run.rows]
    return Line([(x, None if y is None else y * scale) for x, y in values], *style)


def _seconds(run: Run) -> float:
    return sum(row["seconds"] for row in run.rows)
