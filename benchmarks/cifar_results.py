"""Finished runs of ours and of benchmarks.cifar_torch beside one another: a table in Markdown, and error by epoch.

Command: python -m benchmarks.cifar_results RUN_FOLDER ... [--output FILE.png]. Runs that differ in nothing but their
seed are one line: mean test error with its 95 % interval by Student's t, in the plot a band from least to greatest.
Training errors are of augmented images, while the weights change.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tyro.conf import Positional

from resnet_keras.cli.flags import fill
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.table import read_table
from resnet_keras.config.train import TrainConfig, differences
from resnet_keras.errors import UsageError, reason
from resnet_keras.files import writing_to
from resnet_keras.reports.intervals import interval_of
from resnet_keras.reports.plots import COLOURS

mpl.use("Agg")
HEAD = (
    "implementation",
    "network",
    "recipe",
    "epochs",
    "n",
    "test error, % (95 % interval)",
    "training error, %",
    "seconds",
)


@dataclass
class Arguments:
    """Print the results of finished runs as a table, and draw their errors."""

    runs: Annotated[tuple[Path, ...], Positional]
    output: Path | None = None
    """The image; none when left out."""


class Group(NamedTuple):
    """What repetitions of a run have in common."""

    implementation: str
    network: str
    recipe: str
    epochs: int


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    config: TrainConfig
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def group(self) -> Group:
        implementation = "PyTorch" if "torch" in self.metrics["environment"] else "resnet-keras"
        views = ", two views tested" if self.config.test_flip else ""
        return Group(implementation, self.config.model, self.config.name + views, self.config.epochs)

    @property
    def test_error(self) -> float:
        return 100 * (1 - self.metrics["accuracy"])

    def errors(self, column: str) -> dict[int, float]:
        """Epoch to error in %, by a column of accuracies, where it was measured."""
        return {
            epoch: 100 * (1 - row[column]) for epoch, row in enumerate(self.rows, start=1) if row[column] is not None
        }


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises `UsageError` for one that is not finished or was not tested on the test split."""
    try:
        config, metrics = ((folder / name).read_text("utf-8") for name in ("config.json", "metrics.json"))
        run = Run(folder, config_from_json(config, str(folder)), json.loads(metrics), read_table(folder))
    except OSError as error:
        raise UsageError(f"{folder} is not the folder of a finished run: {error.filename}: {reason(error)}") from error
    if run.metrics["interrupted"]:
        raise UsageError(f"{folder} was interrupted; finish it, or leave it out")
    if run.config.validation:
        raise UsageError(f"{folder} was not trained on all training images: some validated it; leave it out")
    return run


def grouped(runs: Sequence[Run]) -> dict[Group, list[Run]]:
    """Repetitions together. Raises `UsageError` for runs that only seem to be comparable."""
    groups: dict[Group, list[Run]] = {}
    peers: dict[Group, Run] = {}
    for run in runs:
        peer = peers.setdefault(run.group._replace(implementation="any"), run)
        if changed := sorted({*differences(run.config, peer.config)} - {"seed"}):
            raise UsageError(f"{run.folder} and {peer.folder} differ in {', '.join(changed)}; leave one out")
        same = groups.setdefault(run.group, [])
        for other in same:
            if other.config.seed == run.config.seed:
                raise UsageError(f"{run.folder} and {other.folder} are both of seed {run.config.seed}; leave one out")
        same.append(run)
    if len(data := sorted({run.config.data for run in runs})) > 1:
        raise UsageError(f"runs on {' and '.join(data)} do not stand beside one another")
    if len(groups) > len(COLOURS):
        raise UsageError(f"there are {len(groups)} groups of runs and only {len(COLOURS)} colours; give fewer")
    return groups


def test_error(runs: list[Run]) -> str:
    """Mean of the runs' and, of two or more, its 95 % interval."""
    return interval_of([run.test_error for run in runs]).text()


def markdown(groups: dict[Group, list[Run]]) -> str:
    """The table, a line a group."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * 3}{'---:|' * 5}"]
    for group, runs in groups.items():
        training = statistics.mean(run.errors("accuracy")[group.epochs] for run in runs)
        seconds = statistics.mean(run.metrics["seconds"] for run in runs)
        cells = (*group, len(runs), test_error(runs), f"{training:.2f}", f"{seconds:,.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def drawn(groups: dict[Group, list[Run]]) -> Figure:
    """Errors by epoch, a colour a group."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for colour, (group, runs) in zip(COLOURS, groups.items(), strict=False):
        mean = statistics.mean(run.test_error for run in runs)
        label = f"{group.network}, {group.implementation}: {mean:.2f} %, n = {len(runs)}"
        label += f"\n{group.recipe}, {group.epochs} epochs"
        epochs, columns = over_runs(runs, "val_accuracy")
        axes.plot(epochs, [statistics.mean(column) for column in columns], color=colour, linewidth=2.2, label=label)
        if len(runs) > 1:
            least, most = ([pick(column) for column in columns] for pick in (min, max))
            axes.fill_between(epochs, least, most, color=colour, alpha=0.15, linewidth=0)
        epochs, columns = over_runs(runs, "accuracy")
        means = [statistics.mean(column) for column in columns]
        axes.plot(epochs, means, color=colour, linewidth=0.9, linestyle="--")
    axes.plot([], [], color="grey", linewidth=2.2, label="test")
    axes.plot([], [], color="grey", linewidth=0.9, linestyle="--", label="training, augmented")
    axes.set(xlabel="epoch", ylabel="error, %")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def over_runs(runs: list[Run], column: str) -> tuple[list[int], list[list[float]]]:
    """The epochs that all runs have a value of, and at each the error of every run."""
    errors = [run.errors(column) for run in runs]
    epochs = sorted(set.intersection(*(set(each) for each in errors)))
    return epochs, [[each[epoch] for each in errors] for epoch in epochs]


def main(words: list[str] | None = None) -> int:
    """Run the program; returns the exit code, as those of `resnet-keras` are."""
    try:
        arguments = fill(Arguments, sys.argv[1:] if words is None else words, "python -m benchmarks.cifar_results")
        if arguments is None:
            return 0
        if not arguments.runs:
            raise UsageError("give one run folder or more")
        groups = grouped([read_run(folder) for folder in arguments.runs])
        print(markdown(groups))
        if arguments.output:
            with writing_to(arguments.output):
                drawn(groups).savefig(arguments.output)
    except UsageError as error:
        print(f"cifar_results: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
