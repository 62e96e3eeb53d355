"""A report for readers: a table in Markdown, and the files of a folder of results."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.chart import bars_of
from resnet_keras.benchmarks.machine import machine_words
from resnet_keras.benchmarks.report import Report, as_file, read_reports
from resnet_keras.files import write_text

FILE, BATCHING = "benchmarks.json", "batching.config"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report into a folder: `benchmarks.json`, whose reports of other kinds stay, a table and bars.

    Returns:
        The files. Raises `UsageError` for a `benchmarks.json` there that is none of ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    known = read_reports(path) if path.exists() else {}
    write_text(path, as_file({**known, report.kind: report}) + "\n")
    table, chart = folder / f"{report.kind}.md", folder / f"{report.kind}.svg"
    write_text(table, f"# Benchmark: {report.kind}\n\n{markdown(report)}\n\n![Bars]({chart.name})\n")
    write_text(chart, bars_of(report))
    if report.settings.get("batching"):
        write_text(folder / BATCHING, report.settings["batching"])
        return [path, table, chart, folder / BATCHING]
    return [path, table, chart]


def markdown(report: Report, unit: str = "images/s") -> str:
    """A table of the rows, with what they were measured on."""
    serves = any("p50" in row.facts for row in report.rows)
    answers = any("cosine" in row.facts for row in report.rows)
    heads = ["", unit, "quartiles", "to the first", "of the limit"]
    heads += ["p50, ms", "p99, ms"] if serves else []
    heads += ["top 1 as the first", "cosine of logits"] if answers else []
    lines = []
    group = None
    for row in report.rows:
        if row.group != group:
            group = row.group
            lines += ["", f"**{group}**", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
        cells = [row.name, f"{row.rate.median:.4g}", f"{row.rate.low:.4g} to {row.rate.high:.4g}"]
        cells += [str(row.ratio) if row.ratio else "", "" if row.share is None else f"{row.share:.0%}"]
        if serves:
            cells += [f"{1e3 * row.facts[name]:.1f}" if name in row.facts else "" for name in ("p50", "p99")]
        if answers:
            agreement, cosine = row.facts.get("agreement"), row.facts.get("cosine")
            cells += ["" if agreement is None else f"{agreement:.0%}", "" if cosine is None else f"{cosine:.6f}"]
        lines.append(_line(cells))
    lines += ["", f"{report.date}; {machine_words(report.machine)}. {effort_words(report)}"]
    if report.limit:
        lines.append(limit_words(report.limit))
    lines += [*(f"- {note}" for note in report.notes)]
    return "\n".join(lines).strip()


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def effort_words(report: Report) -> str:
    """How it was measured, in a sentence."""
    return (
        f"Medians of {report.effort['pairs']} rounds of {report.effort['seconds']:g} s, variants in turn, each in a "
        "process of its own; ratios are of the same round, in parentheses their quartiles."
    )


def limit_words(limit: Mapping[str, Any]) -> str:
    """The limit in a sentence."""
    rates = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in limit["macs_per_second"].items())
    return (
        f"The machine's limit, the fastest matrix product or convolution at ResNet's shapes, in 10^9 multiply-adds a "
        f"second: {rates}; memory {limit['bytes_per_second'] / 1e9:.1f} GB/s."
    )
