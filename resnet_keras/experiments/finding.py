"""What an experiment found, and how it is left: sentences, images, tables, and a page that stands on its own."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from resnet_keras.config.run_folder import REPORT
from resnet_keras.files import atomic_write, json_text, write_text
from resnet_keras.reports.html import Image, rows_of, write_page
from resnet_keras.reports.plots import png_of

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
    """How the nets were trained; a finding itself says what is not one value for all."""

    def to_dict(self) -> dict[str, Any]:
        """What `summary.json` and `--json` have."""
        return {"found": list(self.sentences), "runs": [dict(row) for row in self.table], "protocol": self.protocol}


def write_finding(folder: Path, finding: Finding) -> None:
    """Write `report.html`, `summary.json`, `runs.csv`, and a PNG and a CSV file for each image."""
    images = [Image(png_of(plot.figure), plot.words) for plot in finding.plots]
    for plot, image in zip(finding.plots, images, strict=True):
        with atomic_write(folder / f"{plot.name}.png") as beside:
            beside.write_bytes(image.png)
        write_text(folder / f"{plot.name}.csv", csv_text(plot.numbers))
    write_text(folder / "runs.csv", csv_text(finding.table))
    write_text(folder / SUMMARY, json_text(finding.to_dict()) + "\n")
    write_page(
        folder / REPORT,
        "finding.html",
        title=finding.title,
        summary=finding.sentences[0],
        sentences=finding.sentences[1:],
        plots=images,
        nets=rows_of(finding.means) if finding.means else None,
        runs=rows_of(finding.table),
        protocol=finding.protocol,
    )


def csv_text(rows: Table) -> str:
    """Rows as CSV, the names of the columns first."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
