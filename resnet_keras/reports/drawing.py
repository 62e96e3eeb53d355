"""Drawings inside a page: SVG that follows the page's colours, light and dark, and its width."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.inference.reliability import BINS, Reliability
from resnet_keras.reports.plots import COLOURS

INK = "#010203"
"""In place of the page's ink."""
FEW = 30
"""Points of a line up to which each is marked."""


@dataclass(frozen=True)
class Line:
    """A line of a panel; points without a value are left out."""

    points: Sequence[tuple[float, float | None]]
    colour: int
    """Number of one of the page's colours."""
    dashed: bool = False


def draw_panel(title: str, lines: Sequence[Line], x: str = "Epoch") -> str:
    """A panel of lines over epochs."""
    figure, axes = _panel(title, x)
    for line in lines:
        known = [point for point in line.points if point[1] is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                color=COLOURS[line.colour % len(COLOURS)],
                ls="--" if line.dashed else "-",
                marker="." if len(known) <= FEW else "",
            )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return svg_of(figure, f"{title} by epoch")


def draw_reliability(found: Reliability, which: str = "") -> list[str]:
    """Accuracy by confidence, and how many images have which. `which` ends their titles."""
    accuracy, count = (_panel(title + which, "Confidence (%)") for title in ("Accuracy (%)", "Images (%)"))
    for one in found.bins:
        place = {"x": 100 * one.low, "width": 100 / BINS, "align": "edge", "color": COLOURS[0], "edgecolor": INK}
        accuracy[1].bar(height=100 * one.accuracy, alpha=0.75, linewidth=0.4, **place)
        count[1].bar(height=100 * one.examples / len(found.correct), alpha=0.75, linewidth=0.4, **place)
    accuracy[1].plot([0, 100], [0, 100], color=INK, ls=":", lw=1.2)
    accuracy[1].set(xlim=(0, 100), ylim=(0, 100))
    count[1].set(xlim=(0, 100))
    return [
        svg_of(accuracy[0], f"Reliability diagram{which}: accuracy by confidence; on the dotted line both are equal"),
        svg_of(count[0], f"Images by confidence{which}"),
    ]


def _panel(title: str, x: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.7, 2.5))
    figure.subplots_adjust(0.13, 0.19, 0.95, 0.88)
    axes: Any = figure.subplots()
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.grid(alpha=0.18, color=INK)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=INK)
    return figure, axes


def svg_of(figure: Figure, words: str) -> str:
    """A figure as an element of the page, with what it shows in words."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": words}):
        figure.savefig(text, format="svg", transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    svg = f'<svg role="img" aria-label="{html.escape(words)}" {box[0]}>{svg[svg.index(">") + 1 :]}'
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = svg.replace(INK, "currentColor")
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour.lower(), f"var(--c{number})")
    return svg
