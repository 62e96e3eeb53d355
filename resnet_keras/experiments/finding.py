"""What an experiment found, and how it is left: sentences, images, tables, and a page that stands on its own."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from resnet_keras.config.run_folder import REPORT
from resnet_keras.files import atomic_write, json_text, write_text
from resnet_keras.reports.run import PAGE, image_tag, pairs_table, png_of

SUMMARY = "summary.json"
Table = Sequence[dict[str, Any]]
"""Rows of one shape; column to value."""


@dataclass(frozen=True)
class Plot:
    """A figure, the name of its files, what it shows in words, and the numbers in it."""

    name: str
    words: str
    figure: Figure
    numbers: Table


@dataclass(frozen=True)
class Finding:
    """The outcome of an experiment."""

    title: str
    sentences: tuple[str, ...]
    """Drawn from the numbers, whatever they say."""
    plots: tuple[Plot, ...]
    table: Table
    """A row a run or a case; `summary.json` and `--json` have it as `runs`."""
    means: Table = ()
    """A row a net, over its seeds; where there are nets to compare."""
    protocol: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What `summary.json` and `--json` have."""
        return {"found": list(self.sentences), "runs": [dict(row) for row in self.table], "protocol": self.protocol}


def write_finding(folder: Path, finding: Finding) -> None:
    """Write `report.html`, `summary.json`, `runs.csv`, and a PNG and a CSV file for each image."""
    parts = [f"<p>{html.escape(sentence)}</p>" for sentence in finding.sentences[1:]]
    for plot in finding.plots:
        png = png_of(plot.figure)
        with atomic_write(folder / f"{plot.name}.png") as beside:
            beside.write_bytes(png)
        write_text(folder / f"{plot.name}.csv", csv_text(plot.numbers))
        parts += [f"<h2>{html.escape(plot.words)}</h2>", image_tag(png, plot.words)]
    if finding.means:
        parts += ["<h2>Nets</h2>", html_table(finding.means)]
    parts += ["<h2>Runs</h2>", html_table(finding.table), "<h2>Protocol</h2>", pairs_table(finding.protocol)]
    page = PAGE.format(
        title=html.escape(finding.title), summary=html.escape(finding.sentences[0]), body="\n".join(parts)
    )
    write_text(folder / "runs.csv", csv_text(finding.table))
    write_text(folder / SUMMARY, json_text(finding.to_dict()) + "\n")
    write_text(folder / REPORT, page)


def csv_text(rows: Table) -> str:
    """Rows as CSV, the names of the columns first."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def html_table(rows: Table) -> str:
    """Rows as a table; numbers to four digits."""
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(_cell(value) for value in row.values())}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"<td class=number>{value:,}</td>"
    return f"<td class=number>{value:.4g}</td>" if isinstance(value, float) else f"<td>{html.escape(str(value))}</td>"
