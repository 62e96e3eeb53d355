"""`report.html` of a search: the trials as a table that sorts, and what mattered, as images."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.reports.html import Image, cell, image_of, spaced, write_page

if TYPE_CHECKING:
    from .search import Search

COLOURS = colormaps["viridis"]
BEST_COLOUR = "#d55e00"
"""Of the best trial; apart from viridis for the colour-blind too."""
LARGE_RATIO = 30.0
"""Between the ends of an axis from which on it is logarithmic."""
CURVES = 5
MARKS_LENGTH = 32
"""Letters of the marks of a small axis, beyond which only its ends have one."""


@dataclass(frozen=True)
class TrialRow:
    """A trial that ended."""

    trial_id: str
    values: dict[str, Any]
    """Of its hyperparameters."""
    score: float | None
    """None where it failed."""
    figures: dict[str, float]
    failure: str | None
    curve: list[tuple[int, float]]
    """Epoch and validation accuracy."""


def write_report(
    path: Path, search: "Search", rows: Sequence[TrialRow], best: TrialRow | None, summary: dict[str, Any]
) -> None:
    """Write the page of a search."""
    settings = search.settings
    done = [row for row in rows if row.score is not None]
    took = sum(row.figures.get("seconds", 0.0) for row in rows)
    write_page(
        path,
        "search.html",
        title=f"Search: {settings.space}, {settings.tuner}",
        summary=f"{len(rows)} trials, {len(rows) - len(done)} of them failed, "
        f"{took / 60:.0f} minutes of training together.",
        found=_spaced(summary),
        sections=[] if best is None else _sections(done, best, settings.objective, better_is_more(search)),
        trials=_table(done, best),
        failed=[_failed(row) for row in rows if row.score is None],
        settings=_spaced(dataclasses.asdict(settings)),
    )


def _sections(
    done: Sequence[TrialRow], best: TrialRow, objective: str, more_is_better: bool
) -> list[tuple[str, list[Image]]]:
    """Headings and the images below them."""
    score, varying = [], varying_of(done)
    if len(varying) > 1:
        words = "Each line is a trial, from hyperparameter to hyperparameter, coloured by its score"
        score.append(image_of(draw_parallel(done, varying, best, objective), words))
    if varying:
        words = "Score by the value of each hyperparameter"
        score.append(image_of(draw_effects(done, varying, best, objective), words))
    costs = [name for name in ("macs", "parameters", "latency_ms", "seconds") if any(name in r.figures for r in done)]
    cost = image_of(
        draw_costs(done, costs, best, objective, more_is_better),
        "Score by cost; the line joins the trials that no cheaper one beats",
    )
    curves = image_of(draw_curves(done, more_is_better), "Validation accuracy by epoch of the best trials")
    return [
        ("Hyperparameters and score", score),
        ("Cost", [cost]),
        ("Learning curves of the best", [curves]),
    ]


def better_is_more(search: "Search") -> bool:
    return search.full_oracle.objective.direction == "max"


def varying_of(rows: Sequence[TrialRow]) -> list[str]:
    """The hyperparameters with more than one value among some trials."""
    names = dict.fromkeys(name for row in rows for name in row.values)
    return [name for name in names if len({str(row.values.get(name)) for row in rows}) > 1]


def _axis(rows: Sequence[TrialRow], name: str) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Where each trial is on the axis of a hyperparameter, 0 to 1, and the axis's marks.

    Trials without it are not on the axis.
    """
    values = {row.trial_id: row.values[name] for row in rows if name in row.values}
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    if numbers and len(set(values.values())) > 6:
        low, high = min(values.values()), max(values.values())
        scale = math.log if low > 0 and high / low > LARGE_RATIO else float
        ends = scale(low), scale(high)
        marks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
        return {key: (scale(value) - ends[0]) / (ends[1] - ends[0]) for key, value in values.items()}, marks
    known = sorted(set(values.values()), key=lambda value: (isinstance(value, str), value))
    place = {value: i / max(1, len(known) - 1) for i, value in enumerate(known)}
    marks = [(place[value], f"{value:.3g}" if isinstance(value, float) else str(value)) for value in known]
    return {key: place[value] for key, value in values.items()}, marks


def draw_parallel(rows: Sequence[TrialRow], names: Sequence[str], best: TrialRow, objective: str) -> Figure:
    """Parallel coordinates: an axis a hyperparameter, one below the other, a line a trial; the score's colours on top.

    So the drawing is as wide as the page, however many hyperparameters there are.
    """
    figure = Figure(figsize=(9.5, 1.4 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    scores = [row.score or 0.0 for row in rows]
    low, high = min(scores), max(scores)
    places = {}
    for y, name in enumerate(names):
        places[name], marks = _axis(rows, name)
        axes.axhline(y, color="#bbb", lw=1, zorder=0)
        for x, text in marks:
            ground = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            axes.text(x, y - 0.12, text, fontsize=8, ha="center", va="bottom", color="#333", zorder=4, bbox=ground)
    for row in sorted(rows, key=lambda row: row is best):
        line = [places[name].get(row.trial_id, math.nan) for name in names]
        share = ((row.score or 0.0) - low) / (high - low) if high > low else 1.0
        style: dict[str, Any] = {"color": COLOURS(share), "lw": 1.2, "alpha": 0.7}
        if row is best:
            style = {"color": BEST_COLOUR, "lw": 3, "label": f"best, trial {row.trial_id}", "zorder": 3}
        axes.plot(line, range(len(names)), marker=".", **style)
    axes.set_yticks(range(len(names)), [spaced(name) for name in names])
    axes.set_xticks([])
    axes.set(xlim=(-0.06, 1.06), ylim=(len(names) - 0.6, -0.75))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower left", frameon=False)
    colours = ScalarMappable(Normalize(low, high), COLOURS)
    figure.colorbar(colours, ax=axes, label=spaced(objective), location="top", pad=0.02, aspect=50)
    return figure


def draw_effects(rows: Sequence[TrialRow], names: Sequence[str], best: TrialRow, objective: str) -> Figure:
    """An image a hyperparameter: scores by its value."""
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, name in zip(grid, names, strict=False):
        places, marks = _axis(rows, name)
        for row in rows:
            if row.trial_id in places:
                mine = row is best
                colour, size = (BEST_COLOUR, 60) if mine else ("#0072b2", 22)
                axes.scatter(places[row.trial_id], row.score, color=colour, s=size, alpha=0.8, zorder=2 + mine)
        crowded = sum(len(text) for _, text in marks) > MARKS_LENGTH
        shown = [marks[0], marks[-1]] if crowded else marks
        axes.set_xticks([place for place, _ in shown], [text for _, text in shown], fontsize=8)
        axes.set_xlim(-0.12, 1.12)
        axes.set_title(spaced(name), fontsize=10)
        axes.grid(axis="y", color="#ddd")
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(spaced(objective))
    return figure


def front(points: Sequence[tuple[float, float]], more_is_better: bool) -> list[tuple[float, float]]:
    """Of (cost, score), those that nothing cheaper or equally cheap beats, by rising cost (Pareto's front)."""
    sign, kept = (1 if more_is_better else -1), []
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * score > sign * kept[-1][1]:
            kept.append((cost, score))
    return kept


def draw_costs(
    rows: Sequence[TrialRow], names: Sequence[str], best: TrialRow, objective: str, more_is_better: bool
) -> Figure:
    """An image a cost: scores by it, and Pareto's front."""
    titles = {"macs": "Multiply-adds an image (M)", "parameters": "Parameters (k)", "latency_ms": "Latency (ms)"}
    scales = {"macs": 1e-6, "parameters": 1e-3}
    figure = Figure(figsize=(3.4 * len(names), 3.0), layout="constrained")
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True).ravel()
    for axes, name in zip(grid, names, strict=True):
        known = [row for row in rows if name in row.figures]
        points = [(row.figures[name] * scales.get(name, 1.0), row.score or 0.0) for row in known]
        axes.scatter(*zip(*points, strict=True), color="#0072b2", s=22, alpha=0.8)
        axes.plot(*zip(*front(points, more_is_better), strict=True), color="#009e73", lw=1.5, marker="o", ms=4)
        axes.scatter(best.figures[name] * scales.get(name, 1.0), best.score, color=BEST_COLOUR, s=60, zorder=3)
        axes.set_xlabel(titles.get(name, "Training (s)"))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(color="#ddd")
    grid[0].set_ylabel(spaced(objective))
    return figure


def draw_curves(rows: Sequence[TrialRow], more_is_better: bool) -> Figure:
    """Validation accuracy by epoch."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    ordered = sorted(rows, key=lambda row: row.score or 0.0, reverse=more_is_better)
    for row, colour in zip(ordered[:CURVES], COLOURS(np.linspace(0, 0.85, CURVES)), strict=False):
        if row.curve:
            epochs, values = zip(*row.curve, strict=True)
            axes.plot(
                epochs, [100 * value for value in values], color=colour, marker=".", label=f"trial {row.trial_id}"
            )
    axes.set(xlabel="Epoch", ylabel="Validation accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#ddd")
    if axes.has_data():
        axes.legend(fontsize=8)
    return figure


def _spaced(values: dict[str, Any]) -> dict[str, Any]:
    return {spaced(name): _in_words(value) for name, value in values.items()}


def _in_words(value: Any) -> Any:
    """A dict as its fields that are not None."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{spaced(name)} {one}" for name, one in value.items() if one is not None) or None


def _table(rows: Sequence[TrialRow], best: TrialRow | None) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    costs = [
        name
        for name in ("epochs", "seconds", "parameters", "macs", "latency_ms")
        if any(name in r.figures for r in rows)
    ]
    lines = []
    for row in rows:
        values = [row.trial_id, row.score, *(row.figures.get(name) for name in costs)]
        values += [row.values.get(name) for name in names]
        lines.append({"cells": [cell(value) for value in values], "best": row is best})
    return {"head": [spaced(name) for name in ["trial", "score", *costs, *names]], "rows": lines}


def _failed(row: TrialRow) -> dict[str, str]:
    values = ", ".join(f"{spaced(name)} {cell(value).text}" for name, value in row.values.items())
    return {"trial": row.trial_id, "why": row.failure or "no reason was given", "hyperparameters": values}
