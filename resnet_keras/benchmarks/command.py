"""A benchmark from its variants to its report, for the command line and for programs with variants of their own."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from resnet_keras.benchmarks.answers import compared
from resnet_keras.benchmarks.machine import this_machine
from resnet_keras.benchmarks.report import Report, Row, report_of, rows_of
from resnet_keras.benchmarks.rounds import Effort, measure
from resnet_keras.benchmarks.variants import Process, Variant
from resnet_keras.benchmarks.workers import workers
from resnet_keras.progress import progress

T = TypeVar("T")
LIMIT = Process("resnet_keras.benchmarks.limit:limit")


def measured_limit() -> Mapping[str, Any]:
    """The machine's limit, by a process of its own: `macs_per_second` by dtype, and `bytes_per_second`."""
    with progress("measuring the machine's limit"), workers({"limit": LIMIT}, {"limit": "the limit"}) as started:
        started["limit"].ready()
        return started["limit"].run().extra


def compare_variants(
    kind: str, variants: Sequence[Variant], effort: Effort, *, limit: bool = True, lenient: bool = False
) -> Report:
    """Measure the machine's limit and then the variants in turns; a row each.

    Args:
        kind: of the report, by which `--against` finds it.
        variants: ours, and a peer's beside them.
        effort: how much is measured.
        limit: whether the limit is measured.
        lenient: whether a process that ends before its first turn is left out, as one is that cannot run here.

    Raises:
        UsageError: a process has ended, or none of the programs can run here.
    """
    machine = this_machine()  # with the load of before
    (measured, left_out), found = within_limits(lambda: measure(variants, effort, lenient=lenient), limit)
    rows = with_answers_compared(rows_of(measured, found))
    return report_of(kind, rows, found, effort, machine=machine, notes=tuple(left_out))


def within_limits(run: Callable[[], T], limit: bool = True) -> tuple[T, Mapping[str, Any] | None]:
    """What `run` returns, and the machine's limit: the larger of before and after, for others may use the machine too.

    Without a `limit` to be measured it is None.
    """
    if not limit:
        return run(), None
    before = measured_limit()
    found = run()
    return found, larger_of(before, measured_limit())


def larger_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two limits as one, number by number the larger."""
    return {
        key: larger_of(value, other[key])
        if isinstance(value, Mapping)
        else max(value, other[key])
        if isinstance(value, int | float)
        else value
        for key, value in one.items()
    }


def with_answers_compared(rows: Sequence[Row]) -> list[Row]:
    """The rows with how far their `answers` are from those of the first of their group, in place of them."""
    first: dict[str, Row] = {}
    found = []
    for row in rows:
        base = first.setdefault(row.group, row)
        facts = dict(row.facts)
        answers = facts.pop("answers", None)
        if answers is not None and row is not base and "answers" in base.facts:
            facts |= compared(base.facts["answers"], answers)
        found.append(dataclasses.replace(row, facts=facts))
    return found
