"""A report as JSON and back, its table and bars, and what got slower since an earlier one."""

import dataclasses
import json
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import variant

from resnet_keras.benchmarks.against import Comparison, earlier
from resnet_keras.benchmarks.answers import compared
from resnet_keras.benchmarks.chart import bars_of
from resnet_keras.benchmarks.report import Report, Row, as_file, read_reports, report_of, rows_of, share_of
from resnet_keras.benchmarks.rounds import Effort, Measured
from resnet_keras.benchmarks.tables import markdown, write_report
from resnet_keras.benchmarks.variants import Sample
from resnet_keras.errors import UsageError

LIMIT = {"macs_per_second": {"float32": 1e9, "int8": 4e9}, "bytes_per_second": 1e8}


def report(rows: list[Row] | None = None, **changes: Any) -> Report:
    facts = {"p50": 0.001, "p99": 0.002, "macs": 1_000_000, "dtype": "float32"}
    samples = {"Keras": [100.0, 110.0, 90.0], "ours | it": [200.0, 210.0, 190.0], "int8": [20.0, 21.0, 19.0]}
    measured = [
        Measured(variant(name), tuple(Sample(rate, 1.0, {"p50": 0.001, "p99": 0.002}) for rate in rates), facts)
        for name, rates in samples.items()
    ]
    made = report_of("infer", rows_of(measured, LIMIT) if rows is None else rows, LIMIT, Effort())
    return dataclasses.replace(made, **changes)


rates = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9).map(tuple)
reports = st.lists(rates, min_size=1, max_size=6).map(
    lambda rows: report([Row("group", str(number), own) for number, own in enumerate(rows)])
)


@given(reports)
def test_json_round_trip(one: Report) -> None:
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(as_file({"infer": one}))
        file.flush()
        assert as_file(read_reports(file.name)) == as_file({"infer": one})


@given(reports)
def test_a_run_against_itself_names_nothing(one: Report) -> None:
    assert Comparison(one, one).slower == []


@given(reports, st.data())
def test_a_row_that_is_slower_by_more_than_the_spread_is_named(one: Report, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, len(one.rows) - 1))
    row = one.rows[chosen]
    factor = row.rate.low / row.rate.high * 0.99
    slow = dataclasses.replace(row, rates=tuple(rate * factor for rate in row.rates))
    rows = tuple(slow if number == chosen else other for number, other in enumerate(one.rows))
    comparison = Comparison(one, dataclasses.replace(one, rows=rows))
    assert [new.title for _, new in comparison.slower] == [row.title]
    assert Comparison(dataclasses.replace(one, rows=rows), one).slower == []


@given(reports)
def test_a_row_within_the_spread_is_not_named(one: Report) -> None:
    """Slower by so much that what was its lower quartile is the upper one now."""
    rows = [
        dataclasses.replace(row, rates=tuple(rate * row.rate.low / row.rate.high * (1 + 1e-9) for rate in row.rates))
        for row in one.rows
    ]
    assert Comparison(one, dataclasses.replace(one, rows=tuple(rows))).slower == []


def test_rows_are_compared_with_the_first_of_their_group() -> None:
    first, second, third = report().rows
    assert first.ratio is None
    assert second.ratio is not None
    assert second.ratio.median == pytest.approx(2.0)
    assert second.rate == (200.0, 190.0, 210.0)
    assert third.facts["p99"] == 0.002
    assert first.share == pytest.approx(0.1)


def test_shares() -> None:
    assert share_of(100, {"macs": 1e6, "passes": 3, "dtype": "float32"}, LIMIT) == pytest.approx(0.3)
    assert share_of(100, {"macs": 1e6, "dtype": "int8"}, LIMIT) == pytest.approx(0.025)
    assert share_of(100, {"bytes": 1e5}, LIMIT) == pytest.approx(0.1)
    assert share_of(100, {"macs": 1e6, "dtype": "bfloat16"}, LIMIT) is None
    assert share_of(100, {"macs": 1e6}, None) is None
    assert share_of(100, {}, LIMIT) is None


def test_another_machine_is_said() -> None:
    one = report()
    other = dataclasses.replace(
        one, machine={**one.machine, "cpu": "another"}, limit={**LIMIT, "macs_per_second": {"float32": 5e8}}
    )
    words = "\n".join(Comparison(other, one).words())
    assert "another machine than this: another, " in words
    assert "this machine's limit / its limit: float32 2.00, memory 1.00" in words
    assert "3 rows compared" in words
    fewer = dataclasses.replace(one, rows=one.rows[:1])
    assert "not measured this time: group: int8" in Comparison(one, fewer).words()


def test_a_folder_keeps_other_kinds(tmp_path: Path) -> None:
    one = report()
    write_report(one, tmp_path)
    settings = {"batching": "max_batch_size { value: 2 }\n"}
    paths = write_report(dataclasses.replace(one, kind="serve", settings=settings), tmp_path)
    assert [path.name for path in paths] == ["benchmarks.json", "serve.md", "serve.svg", "batching.config"]
    assert list(read_reports(tmp_path / "benchmarks.json")) == ["infer", "serve"]
    assert earlier(tmp_path / "benchmarks.json", "serve").rows == one.rows
    with pytest.raises(UsageError, match="no benchmark of train, only of infer, serve"):
        earlier(tmp_path / "benchmarks.json", "train")


def test_table_and_bars() -> None:
    table = markdown(report(notes=("a note",)))
    assert "**group**" in table
    assert "| Keras | 100 | 90 to 110 |  | 10% | 1.0 | 2.0 |" in table
    assert "float32 1, int8 4; memory 0.1 GB/s" in table
    assert table.endswith("- a note")
    svg = bars_of(report())
    ElementTree.fromstring(svg)
    assert "the machine's limit" in svg
    assert svg == bars_of(report())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "holds a list, not an object"),
        ("{}", "is no benchmark: it has no version and reports"),
        ('{"version": 99, "reports": {}}', "is of version 99, and this version of resnet-keras reads 1"),
        ('{"version": 1, "reports": {"infer": {"rows": [{}]}}}', "is damaged: KeyError"),
        ('{"version": 1, "reports": []}', "is damaged: AttributeError"),
        ('{"version": 1, "reports": {}}', "has no benchmark of infer, only of nothing"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=words) as raised:
        earlier(tmp_path / "a.json", "infer")
    assert "\n" not in str(raised.value)


def test_every_damage_of_a_field_is_found(tmp_path: Path) -> None:
    whole = json.loads(as_file({"infer": report()}))
    entry = whole["reports"]["infer"]
    for change in (
        {"kind": "train"},
        {"rows": entry["rows"][:1] * 2},
        {"rows": [{**entry["rows"][0], "rates": []}]},
        {"rows": [{**entry["rows"][0], "rates": ["fast"]}]},
        {"rows": [{**entry["rows"][0], "rates": [-1.0]}]},
        {"rows": [{**entry["rows"][0], "ratio": {"median": 1.0}}]},
        {"another": 1},
    ):
        (tmp_path / "a.json").write_text(json.dumps({**whole, "reports": {"infer": {**entry, **change}}}))
        with pytest.raises(UsageError, match="is damaged"):
            read_reports(tmp_path / "a.json")


def test_answers() -> None:
    ones = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]
    assert compared(ones, ones) == {"agreement": 1.0, "cosine": pytest.approx(1.0)}
    assert compared(ones, [[0.7, 0.2, 0.1], [0.8, 0.1, 0.1]])["agreement"] == 0.5
