"""The results of `make bench` as files: benchmarks.json, benchmarks.md and the charts beside it."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.goals import HOURS, Outcome, outcomes
from benchmarks.sections import SECTIONS
from resnet_keras.benchmarks.chart import BAR, LIMIT, bars_of
from resnet_keras.benchmarks.report import Report, as_file, read_reports
from resnet_keras.benchmarks.tables import FILE, markdown
from resnet_keras.files import write_text

TITLES = {
    "train": "Training steps",
    "infer": "Export of ResNet-50",
    "classifiers": "Export of any Keras classifier",
    "input": "Training input",
    "serve": "Serving",
    "start": "Start, building and export",
    "growth": "Growth",
}
IMAGES = "images"
"""The folder of the charts, beside that of the results."""
INTRODUCTION = """# Benchmarks: this library beside others

Written by `make bench` ([how it is measured](../benchmarks.md)). Each row is a process of its own, the rows of a group
take turns, and a ratio is the median of the ratios of each round, with its quartiles in parentheses. Networks have
random weights. Peers in training and in the export of ResNet-50 get float32 that is normalized already, ours uint8.
"""


def write(found: Mapping[str, Report], folder: Path) -> list[Path]:
    """Put reports to those of a folder, and write its page and charts anew. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    path, images = folder / FILE, folder.parent / IMAGES
    images.mkdir(exist_ok=True)
    reports = {**(read_reports(path) if path.exists() else {}), **found}
    reports = {kind: reports[kind] for kind in (*SECTIONS, *reports) if kind in reports}
    write_text(path, as_file(reports) + "\n")
    written = [path, folder / "benchmarks.md"]
    for kind, report in reports.items():
        chart = images / f"benchmark-{kind}.svg"
        write_text(chart, growth_chart(report) if kind == "growth" else bars_of(report, *_unit(kind)))
        written.append(chart)
    write_text(written[1], page(reports))
    return written


def _unit(kind: str) -> tuple[str, ...]:
    return ("times a second",) if kind == "start" else ()


def page(reports: Mapping[str, Report]) -> str:
    """The page: the goals first, then each section's chart and table."""
    parts = [INTRODUCTION, "## Goals\n", goals_table(outcomes(reports))]
    for kind, report in reports.items():
        parts.append(f"\n## {TITLES.get(kind, kind)}\n\n![{kind}](../{IMAGES}/benchmark-{kind}.svg)\n")
        parts.append(tables(report))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip() + "\n"


def tables(report: Report) -> str:
    """The tables of a section in Markdown."""
    if report.kind == "growth":
        return growth_tables(report)
    found = markdown(report, *_unit(report.kind))
    return f"{found}\n{export_table(report)}" if report.kind == "start" else found


def goals_table(found: Sequence[Outcome]) -> str:
    """A row a goal; what takes hours last."""
    heads = ("goal", "dtype", "wanted", "peer", "ours", "ratio", "of the limit", "met")
    lines = [_line(heads), _line(["---"] * len(heads))]
    for one in found:
        share = "" if one.share is None else f"{one.share:.0%}"
        ratio = str(one.ratio) if one.ratio else ""
        verdict = f"**{one.verdict}**" if one.met else one.verdict
        lines.append(_line([one.goal.what, one.goal.dtype, one.wanted, one.peer, one.ours, ratio, share, verdict]))
    for hours in HOURS:
        commands = ", ".join(f"`{command}`" for command in hours.commands)
        verdict = f"not measured by `make bench`, for it takes hours: {commands}"
        lines.append(_line([hours.what, "", "", "", "", "", "", verdict]))
    met, known = sum(one.met is True for one in found), sum(one.met is not None for one in found)
    return "\n".join([f"{met} of {known} measured goals are met; {len(found)} are set.\n", *lines])


def export_table(report: Report) -> str:
    """What exporting takes: seconds, size and memory."""
    rows = [row for row in report.rows if "megabytes" in row.facts]
    if not rows:
        return ""
    lines = ["", _line(["export", "seconds", "on disk, MB", "beyond the model, MiB"]), "|---|---:|---:|---:|"]
    for row in rows:
        facts = row.facts
        lines.append(_line([row.name, f"{facts['took']:.1f}", f"{facts['megabytes']:.1f}", f"{facts['mib']:,.0f}"]))
    return "\n".join(lines)


def growth_tables(report: Report) -> str:
    """Slopes, then each axis's points."""
    slopes = report.settings["slopes"]
    lines = [_line(["by", "time", "of the arithmetic", "memory", "of maps and weights"]), "|---|---:|---:|---:|---:|"]
    lines += [
        _line(
            [
                each["axis"],
                *(f"{each[name]:.2f}" for name in ("time", "time_of_arithmetic", "memory", "memory_of_arithmetic")),
            ]
        )
        for each in slopes
    ]
    lines += ["", "Slopes on logarithmic axes, by least squares; 1 is linear. The points:", ""]
    lines += [_line(["by", "value", "seconds", "MiB beyond the start"]), "|---|---:|---:|---:|"]
    for each in slopes:
        lines += [
            _line([each["axis"], f"{one['x']:.0f}", f"{one['seconds']:.4g}", f"{one['mib']:,.0f}"])
            for one in each["points"]
        ]
    notes = [f"- {note}" for note in report.notes]
    return "\n".join([*lines, "", f"{report.date}. Seconds are those of the fastest call.", *notes])


def growth_chart(report: Report) -> str:
    """Time and memory by each axis on logarithmic axes; the dashed line grows as the arithmetic does. SVG."""
    slopes: list[dict[str, Any]] = report.settings["slopes"]
    figure = Figure(figsize=(8, 2.5 * len(slopes)), layout="constrained")
    panels: Any = figure.subplots(len(slopes), 2, squeeze=False)
    for pair, each in zip(panels, slopes, strict=True):
        xs = [one["x"] for one in each["points"]]
        for axes, key, what, unit in zip(
            pair, ("seconds", "mib"), ("time", "memory"), ("seconds", "MiB beyond the start"), strict=True
        ):
            ys = [max(one[key], 1e-9) for one in each["points"]]
            exponent = each[f"{what}_of_arithmetic"]
            axes.plot(xs, ys, "o-", color=BAR)
            line = [ys[0] * (x / xs[0]) ** exponent for x in xs]
            axes.plot(xs, line, "--", color=LIMIT, linewidth=1)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(xs, [f"{x:.0f}" for x in xs], minor=False)
            axes.set_xticks([], minor=True)
            axes.set_ylabel(unit, fontsize=8)
            axes.set_title(f"{each['axis']}\nslope {each[what]:.2f}, dashed {exponent:g}", fontsize=8, loc="left")
            axes.grid(alpha=0.3)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "growth"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
