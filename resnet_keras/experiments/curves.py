"""Images and sentences of trained nets: error by step, final loss by depth, means and deviations over seeds."""

import statistics
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from resnet_keras.experiments.finding import Plot, Table
from resnet_keras.experiments.grid import Trained
from resnet_keras.reports.intervals import interval_of
from resnet_keras.reports.plots import COLOURS

MARKERS = "osD^vPX"


def grouped(runs: Iterable[Trained], *names: str) -> dict[tuple, list[Trained]]:
    """Runs by some of their fields, in the order in which they come."""
    groups: dict[tuple, list[Trained]] = {}
    for run in runs:
        groups.setdefault(tuple(getattr(run, name) for name in names), []).append(run)
    return groups


def error_curves(name: str, words: str, runs: Sequence[Trained], panels: str, colours: str) -> Plot:
    """Error by step, as Figure 6 of He et al. 2015: training thin, test thick; a band from seed to seed.

    Args:
        name, words: of the image.
        runs: at least one.
        panels: the field whose values have a panel each.
        colours: the field whose values have a colour each.
    """
    kinds = list(dict.fromkeys(getattr(run, panels) for run in runs))
    tones = list(dict.fromkeys(getattr(run, colours) for run in runs))
    figure = Figure(figsize=(4.6 * max(2, len(kinds)), 4.2), layout="constrained")
    all_axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    numbers: list[dict[str, float | str]] = []
    for axes, kind in zip(all_axes, kinds, strict=True):
        for (tone,), same in grouped([run for run in runs if getattr(run, panels) == kind], colours).items():
            colour = COLOURS[tones.index(tone) % len(COLOURS)]
            for column, width in (("accuracy", 1.0), ("val_accuracy", 2.6)):
                _band(axes, same, column, colour, width)
        axes.set(title=_label(panels, kind), xlabel="Step")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    all_axes[0].set(ylabel="Error (%)", ylim=(0, None))
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], lw=2.6, label=_label(colours, t)) for i, t in enumerate(tones)
    ]
    handles += [Line2D([], [], color="#555", lw=w, label=text) for w, text in ((1, "training"), (2.6, "test"))]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    for run in runs:
        for row in run.epochs:
            tested = row["val_accuracy"]
            numbers.append(
                {
                    "kind": run.kind,
                    "depth": run.depth,
                    "seed": run.seed,
                    "step": _step(run, row["epoch"]),
                    "train_error": 1 - row["accuracy"],
                    "test_error": "" if tested is None else 1 - tested,
                }
            )
    return Plot(name, words, figure, numbers)


def _step(run: Trained, epoch: float) -> int:
    return round(run.steps * epoch / len(run.epochs))


def _band(axes: Axes, runs: Sequence[Trained], column: str, colour: str, width: float) -> None:
    """The mean over seeds, and the space between the best and the worst."""
    tested = [row["epoch"] for row in runs[0].epochs if row[column] is not None]
    steps = [_step(runs[0], epoch) for epoch in tested]
    errors = np.array([[100 * (1 - row[column]) for row in run.epochs if row[column] is not None] for run in runs])
    axes.plot(steps, errors.mean(0), color=colour, lw=width, marker="." if len(steps) < 3 else None)
    if len(runs) > 1:
        axes.fill_between(steps, errors.min(0), errors.max(0), color=colour, alpha=0.12, lw=0)


def _label(field: str, value: object) -> str:
    return f"{value} layers" if field == "depth" else str(value)


def loss_by_depth(name: str, words: str, runs: Sequence[Trained]) -> Plot:
    """Training loss at the end by depth: a point a run, a line through the means, a colour a kind."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, ((kind,), same) in enumerate(grouped(runs, "kind").items()):
        depths = grouped(same, "depth")
        means = [statistics.fmean(run.train_loss for run in at) for at in depths.values()]
        axes.plot([depth for (depth,) in depths], means, color=COLOURS[i], lw=1.5)
        axes.plot(
            [run.depth for run in same],
            [run.train_loss for run in same],
            MARKERS[i],
            color=COLOURS[i],
            alpha=0.8,
            label=kind,
        )
    axes.set(xlabel="Layers", ylabel="Training loss at the end (nats an image)", yscale="log")
    axes.set_xticks(sorted({run.depth for run in runs}))
    axes.grid(alpha=0.3)
    axes.legend()
    numbers = [{k: getattr(run, k) for k in ("kind", "depth", "seed", "train_loss")} for run in runs]
    return Plot(name, words, figure, numbers)


def as_rows(runs: Sequence[Trained]) -> Table:
    """A row a run."""
    return [run.to_dict() for run in runs]


def means_table(runs: Sequence[Trained]) -> Table:
    """A row a net: final errors in %, means over seeds with their 95 % intervals, parameters, steps."""
    rows = []
    for (kind, depth), same in grouped(runs, "kind", "depth").items():
        rows.append(
            {
                "kind": kind,
                "depth": depth,
                "seeds": len(same),
                "training loss": statistics.fmean(run.train_loss for run in same),
                "training error (%), 95 % interval": interval_of(train_errors(same)).text(),
                "test error (%), 95 % interval": interval_of(test_errors(same)).text(),
                "parameters": same[0].parameters,
                "steps": same[0].steps,
            }
        )
    return rows


def train_errors(runs: Iterable[Trained]) -> list[float]:
    """In %, on the training images as they are."""
    return [100 * (1 - run.train_accuracy) for run in runs]


def test_errors(runs: Iterable[Trained]) -> list[float]:
    """In %."""
    return [100 * (1 - run.test_accuracy) for run in runs]
