"""The result of a benchmark: rows, the machine and its limit, and their JSON. Standard library only."""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.machine import this_machine
from resnet_keras.benchmarks.pairs import Ratio, quartiles, ratio_of
from resnet_keras.benchmarks.rounds import Effort, Measured
from resnet_keras.errors import UsageError
from resnet_keras.files import json_text, read_json

VERSION = 1
"""Of the JSON. A file has a report of each kind at most: `{"version": 1, "reports": {"train": {...}, ...}}`."""
MEND = "give a file that `resnet-keras benchmark ... --output FOLDER` wrote"


@dataclass(frozen=True)
class Row:
    """What was measured of a variant."""

    group: str
    name: str
    rates: tuple[float, ...]
    """images/s of each round."""
    ratio: Ratio | None = None
    """To the first row of the group, by round; None for that row itself. Above 1, this row is the faster."""
    share: float | None = None
    """Of the machine's limit that is reached; None where nobody knows."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known, such as `p50` and `p99` in seconds, or how far answers are from those of the first row."""

    @property
    def title(self) -> str:
        """By which the rows of two reports are matched."""
        return f"{self.group}: {self.name}"

    @property
    def rate(self) -> Ratio:
        """Median and quartiles of images/s."""
        return quartiles(self.rates)


@dataclass(frozen=True)
class Report:
    """A benchmark of one kind."""

    kind: str
    rows: tuple[Row, ...]
    machine: Mapping[str, Any]
    limit: Mapping[str, Any] | None
    """`macs_per_second` by dtype, and `bytes_per_second`; None where it was not measured."""
    effort: Mapping[str, Any]
    date: str
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For serve: the settings that are best, and the commands that have them."""

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {**asdict(row), "ratio": row.ratio and row.ratio._asdict(), "images_per_second": row.rate._asdict()}
            for row in self.rows
        ]
        return {**asdict(self), "rows": rows}


def rows_of(measured: Sequence[Measured], limit: Mapping[str, Any] | None) -> list[Row]:
    """A row for each variant, compared with the first of its group."""
    first: dict[str, Measured] = {}
    rows = []
    for one in measured:
        base = first.setdefault(one.variant.group, one)
        rates = tuple(sample.rate for sample in one.samples)
        ratio = None if one is base else ratio_of(rates, [sample.rate for sample in base.samples])
        facts: dict[str, Any] = {**one.facts, **one.samples[-1].extra}
        for name in ("p50", "p99"):
            if name in facts:
                facts[name] = quartiles([sample.extra[name] for sample in one.samples]).median
        share = share_of(quartiles(rates).median, facts, limit)
        rows.append(Row(one.variant.group, one.variant.name, rates, ratio, share, facts))
    return rows


def share_of(rate: float, facts: Mapping[str, Any], limit: Mapping[str, Any] | None) -> float | None:
    """The share of the limit that so many images/s are, by the multiply-adds or the bytes of an image."""
    if limit is None:
        return None
    fastest = limit["macs_per_second"].get(facts.get("dtype", "float32"))
    if facts.get("macs") and fastest:
        return rate * facts["macs"] * facts.get("passes", 1) / fastest
    if facts.get("bytes"):
        return rate * facts["bytes"] / limit["bytes_per_second"]
    return None


def report_of(kind: str, rows: Iterable[Row], limit: Mapping[str, Any] | None, effort: Effort, **more: Any) -> Report:
    """A report of this machine and moment."""
    date = datetime.datetime.now().isoformat(" ", "minutes")
    return Report(kind, tuple(rows), more.pop("machine", None) or this_machine(), limit, asdict(effort), date, **more)


def as_file(reports: Mapping[str, Report]) -> str:
    """The text of a file of reports by their kinds."""
    return json_text({"version": VERSION, "reports": {kind: report.to_dict() for kind, report in reports.items()}})


def read_reports(path: str | Path) -> dict[str, Report]:
    """The reports of a file, by kind.

    Raises:
        UsageError: no such file, a damaged one, or one of another version.
    """
    path = Path(path).expanduser()
    value = read_json(path, MEND)
    if "reports" not in value or "version" not in value:
        raise UsageError(f"{path} is no benchmark: it has no version and reports; {MEND}")
    if value["version"] != VERSION:
        raise UsageError(
            f"{path} is of version {value['version']!r}, and this version of resnet-keras reads {VERSION}; measure anew"
        )
    try:
        return {kind: _report(kind, entry) for kind, entry in value["reports"].items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {type(error).__name__} {error}; {MEND}") from error


def _report(kind: str, entry: dict[str, Any]) -> Report:
    entry = dict(entry)
    rows = tuple(_row(dict(row)) for row in entry.pop("rows"))
    names = [row.title for row in rows]
    if entry["kind"] != kind or len(set(names)) != len(names):
        raise ValueError(f"the report of {kind} is of {entry['kind']}, or has a row twice")
    return Report(**{**entry, "rows": rows, "notes": tuple(entry["notes"])})


def _row(entry: dict[str, Any]) -> Row:
    entry.pop("images_per_second", None)
    rates = tuple(float(rate) for rate in entry.pop("rates"))
    if not rates or not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise ValueError(f"rates of {entry.get('name')} are {rates}")
    ratio = entry.pop("ratio")
    return Row(**entry, rates=rates, ratio=ratio and Ratio(**ratio))
