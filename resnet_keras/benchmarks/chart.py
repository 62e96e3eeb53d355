"""Bars of a report: images/s with their quartiles, and the machine's limit drawn in."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from resnet_keras.benchmarks.report import Report, Row

BAR, WHISKER, LIMIT = "#0072B2", "#333333", "#D55E00"
"""Okabe and Ito's, as the other figures have them."""
FARTHEST = 2.0
"""Times the longest bar: a limit farther out is written, for its tick would leave nothing of the bars."""


def bars_of(report: Report, unit: str = "images/s") -> str:
    """A panel a group, a bar a row; a red tick where it would reach the limit, with the share that it has. SVG."""
    groups = list(dict.fromkeys(row.group for row in report.rows))
    counts = [sum(row.group == group for row in report.rows) for group in groups]
    figure = Figure(figsize=(8, sum(counts) * 0.32 + len(groups) * 0.95 + 0.2), layout="constrained")
    panels: Any = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[count + 1.5 for count in counts])
    for axes, group in zip(panels[:, 0], groups, strict=True):
        rows = [row for row in report.rows if row.group == group]
        places = range(len(rows))
        rates = [row.rate for row in rows]
        around = [[r.median - r.low for r in rates], [r.high - r.median for r in rates]]
        axes.barh(places, [r.median for r in rates], color=BAR, height=0.7)
        axes.errorbar(
            [r.median for r in rates], places, xerr=around, fmt="none", ecolor=WHISKER, elinewidth=1.2, capsize=2.5
        )
        end = max(r.high for r in rates) * FARTHEST
        for place, row in enumerate(rows):
            limit = row.rate.median / row.share if row.share else 0.0
            if 0 < limit <= end:
                axes.plot([limit, limit], [place - 0.42, place + 0.42], color=LIMIT, linewidth=2)
            if limit:
                words = f" {row.share:.0%}" if limit <= end else f" {row.share:.0%} of {limit:,.0f}"
                axes.annotate(words, (min(limit, end), place), color=LIMIT, fontsize=8, va="center")
        axes.set_yticks(places, [row.name for row in rows], fontsize=8.5, parse_math=False)
        axes.invert_yaxis()
        axes.set_title(group, fontsize=10, loc="left", parse_math=False)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlim(0, 1.25 * max([r.high for r in rates] + [min(x, end) for x in _limits(rows)]))
    last = f"{unit}; lines: quartiles" + ("; red: the machine's limit" if any(row.share for row in report.rows) else "")
    panels[-1, 0].set_xlabel(last)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": report.kind}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _limits(rows: Sequence[Row]) -> list[float]:
    """images/s at which each row would reach the limit, where it is known."""
    return [row.rate.median / row.share for row in rows if row.share]
