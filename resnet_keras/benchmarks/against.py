"""A report beside an earlier one: what got slower by more than its spread."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_keras.benchmarks.machine import is_same_machine, machine_words
from resnet_keras.benchmarks.report import Report, Row, read_reports
from resnet_keras.errors import UsageError

NAMED = 8
"""Rows that are named where they are missing; of more, their number."""


@dataclass(frozen=True)
class Comparison:
    """Rows of one title in both reports."""

    old: Report
    new: Report

    def pairs(self) -> Iterator[tuple[Row, Row]]:
        """(old, new), in the order of the new."""
        known = {row.title: row for row in self.old.rows}
        return ((known[row.title], row) for row in self.new.rows if row.title in known)

    @property
    def slower(self) -> list[tuple[Row, Row]]:
        """Those whose upper quartile is below the lower one that they had."""
        return [(old, new) for old, new in self.pairs() if new.rate.high < old.rate.low]

    def words(self) -> list[str]:
        """What there is to say of it, a line each."""
        lines = []
        if not is_same_machine(self.old.machine, self.new.machine):
            lines.append(f"another machine than this: {machine_words(self.old.machine)}")
            lines += self._limits()
        for old, new in self.slower:
            lines.append(
                f"slower: {new.title}, {new.rate.median:.4g} images/s ({new.rate.low:.4g} to {new.rate.high:.4g}), "
                f"was {old.rate.median:.4g} ({old.rate.low:.4g} to {old.rate.high:.4g})"
            )
        both = len(list(self.pairs()))
        lines.append(f"{both} rows compared with those of {self.old.date}, {len(self.slower)} slower beyond the spread")
        missing = {row.title for row in self.old.rows} - {row.title for row in self.new.rows}
        if len(missing) > NAMED:  # those of other libraries, which `make bench` measures
            return [*lines, f"not measured this time: {len(missing)} rows"]
        lines += [f"not measured this time: {title}" for title in sorted(missing)]
        return lines

    def _limits(self) -> list[str]:
        if not self.old.limit or not self.new.limit:
            return ["its limit and this machine's are not both known; rates are compared as they are"]
        old, new = self.old.limit["macs_per_second"], self.new.limit["macs_per_second"]
        ratios = [f"{dtype} {new[dtype] / old[dtype]:.2f}" for dtype in new if old.get(dtype)]
        memory = self.new.limit["bytes_per_second"] / self.old.limit["bytes_per_second"]
        return [
            f"this machine's limit / its limit: {', '.join([*ratios, f'memory {memory:.2f}'])}; "
            "rates are compared as they are"
        ]


def earlier(path: str | Path, kind: str) -> Report:
    """The report of a kind in a file. Raises `UsageError` where there is none."""
    reports = read_reports(path)
    if kind not in reports:
        held = ", ".join(reports) or "nothing"
        raise UsageError(f"{path} has no benchmark of {kind}, only of {held}; give another file to --against")
    return reports[kind]
