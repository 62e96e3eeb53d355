"""Goals and their page from made-up reports, and sections of which one fails."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import goals, growth, page, suite
from benchmarks.goals import GOALS, Goal, outcome, outcomes
from benchmarks.sections import SECTIONS
from resnet_keras.benchmarks.machine import this_machine
from resnet_keras.benchmarks.report import Report, Row, read_reports
from resnet_keras.benchmarks.rounds import Effort
from resnet_keras.errors import UsageError

SHORT = Effort(2, 0.1)
GOAL = Goal("A step", "train", "net", "ours", ("peer", "other peer"), "float32", least=1.1, share=0.5)


def report(kind: str, *rows: Row, **settings: Any) -> Report:
    return Report(kind, rows, this_machine(), None, dataclasses.asdict(SHORT), "2026-11-27 10:00", (), settings)


def row(name: str, *rates: float, group: str = "net", share: float | None = None, **facts: Any) -> Row:
    return Row(group, name, rates, None, share, facts)


def of(goal: Goal, *rows: Row) -> goals.Outcome:
    return outcome(goal, {goal.section: report(goal.section, *rows)})


def test_a_goal_is_met_by_the_median_of_the_pairs() -> None:
    found = of(GOAL, row("ours", 12, 24, 50, share=0.6), row("peer", 10, 20, 50))
    assert found.met is True
    assert found.verdict == "met"
    assert found.ratio
    assert found.ratio.median == pytest.approx(1.2)
    assert (found.ours, found.peer, found.wanted) == (
        "24 images/s",
        "peer (20 images/s)",
        "1.1 of the peer, 50% of the limit",
    )


def test_the_fastest_of_several_peers_counts() -> None:
    found = of(GOAL, row("ours", 12, 24, share=0.6), row("peer", 10, 20), row("other peer", 12, 24))
    assert found.met is False
    assert found.verdict == "9% short"


def test_by_how_much_a_goal_is_missed() -> None:
    found = of(GOAL, row("ours", 11, 11, share=0.25), row("peer", 20, 20))
    assert found.verdict == "50% short; 50% short"
    assert of(GOAL, row("ours", 30, 30), row("peer", 20, 20)).verdict == "the limit is unknown"


def test_a_missing_row_is_not_a_miss() -> None:
    assert of(GOAL, row("ours", 1, 1)).verdict == "not measured: no peer and other peer"
    assert of(GOAL, row("peer", 1, 1)).verdict == "not measured: no row 'ours'"
    assert outcome(GOAL, {}).met is None


def test_seconds_and_memory() -> None:
    slow = Goal("start", "start", "net", "ours", most=0.3)
    assert of(slow, row("ours", 5, 4)).met is True
    assert of(slow, row("ours", 2, 2)).verdict == "1.67 times what it may be"
    large = Goal("export", "start", "net", "ours", most=2048, fact="mib")
    assert of(large, row("ours", 1, mib=4096)).verdict == "2.00 times what it may be"
    assert of(large, row("ours", 1, mib=100)).ours == "100"
    assert of(Goal("input", "input", "net", "ours", least=100_000), row("ours", 50_000, 50_000)).verdict == "50% short"
    holds = Goal("it is so", "start", "net", "ours", holds="so")
    assert of(holds, row("ours", 3, so=True)).met is True
    assert of(holds, row("ours", 3, so=False)).verdict == "it does not hold"


def test_the_goals_are_of_rows_that_the_sections_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goal finds its rows, where every variant is measured."""
    reports: dict[str, Report] = {}

    def measured(kind: str, variants: Any, *_: Any, **__: Any) -> Report:
        return report(kind, *(Row(one.group, one.name, (1.0, 1.0), None, 0.5, {"mib": 1.0}) for one in variants))

    def started(variants: Any, *_: Any, **__: Any) -> Any:
        raise FoundError(variants)

    monkeypatch.setattr("benchmarks.sections.compare_variants", measured)
    monkeypatch.setattr("benchmarks.sections.prepared", lambda *_: [])
    for kind in ("train", "infer", "classifiers", "input"):
        reports[kind] = SECTIONS[kind](SHORT)
        assert len({row.title for row in reports[kind].rows}) == len(reports[kind].rows)
    monkeypatch.setattr("benchmarks.sections.measure", started)
    with pytest.raises(FoundError) as found:
        SECTIONS["start"](SHORT)
    once = [Row(goals.WRITE, f"{net} {dtype}", (1.0,), None, None, {"mib": 1.0}) for net, dtype in EXPORTS]
    reports["start"] = report("start", *(row(one.name, 1.0, group=one.group) for one in found.value.args[0]), *once)
    names = (*goals.DIRECT, goals.GRPC, goals.REST)
    groups = [goals.group(dtype, clients) for dtype in goals.DTYPES for clients in goals.CLIENTS]
    reports["serve"] = report("serve", *(row(name, 1.0, 1.0, group=group) for group in groups for name in names))
    assert [goal for goal in GOALS if outcome(goal, reports).met is None] == []


EXPORTS = [("resnet50", dtype) for dtype in ("float32", "bfloat16", "int8")] + [("resnet152", "float32")]


class FoundError(Exception):
    """The variants that would be measured."""


def test_slopes() -> None:
    assert growth.slope([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert growth.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    axis = growth.AXES[0]
    rows = [row(str(x), 1.0, group=axis.name, took=0.1 * x, mib=5.0 * x**1.5) for x in axis.xs]
    (found,) = growth.slopes_of(rows)
    assert (found.time, found.memory) == (pytest.approx(1), pytest.approx(1.5))
    grown = report("growth", *rows, slopes=[dataclasses.asdict(found)])
    time, memory, *others = [one for one in outcomes({"growth": grown}) if one.goal.section == "growth"]
    assert (time.met, memory.met, memory.verdict) == (True, False, "0.40 above")
    assert {one.verdict for one in others} == {"not measured: fewer than two points"}
    assert growth.slopes_of(rows[:1]) == []
    assert all(len(axis.xs) == len(axis.arguments) for axis in growth.AXES)


def test_the_page(tmp_path: Path) -> None:
    """Sections measured another time stay, in the JSON and on the page."""
    folder = tmp_path / "docs" / "results"
    goal = GOALS[0]
    first = report("train", row(goal.ours, 3, 3, group=goal.group), row(goal.peers[0], 2, 2, group=goal.group))
    page.write({"train": first}, folder)
    axis = growth.AXES[0]
    rows = [row(str(x), 1.0, group=axis.name, took=0.1 * x, mib=5.0 * x) for x in axis.xs]
    slopes = [dataclasses.asdict(each) for each in growth.slopes_of(rows)]
    starts = report("start", row("resnet50 float32", 1.0, group=goals.WRITE, took=1.0, mib=2.0, megabytes=3.0))
    written = page.write({"growth": report("growth", *rows, slopes=slopes), "start": starts}, folder)
    assert all(path.exists() for path in written)
    assert list(read_reports(folder / "benchmarks.json")) == ["train", "start", "growth"]
    text = (folder / "benchmarks.md").read_text()
    cells = ("float32", "1.3 of the peer", "torch (2 images/s)", "3 images/s", "1.50 (1.50 to 1.50)", "", "**met**")
    assert f"| {goal.what} | {' | '.join(cells)} |" in text
    assert "python -m benchmarks.cifar_torch cifar10-resnet20-short" in text
    assert "![growth](../images/benchmark-growth.svg)" in text
    assert "| resnet50 float32 | 1.0 | 3.0 | 2 |" in text
    assert (tmp_path / "docs" / "images" / "benchmark-train.svg").read_text().startswith("<?xml")


def test_a_section_that_fails_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Effort) -> Report:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(suite, "SECTIONS", {"infer": fails, "train": lambda _: report("train", row("ours", 1.0, 2.0))})
    output = str(tmp_path / "docs" / "results")
    assert suite.main(suite.Arguments(output=output, quick=True)) == 1
    printed = capsys.readouterr().out
    assert "section infer failed: RuntimeError: no such thing" in printed
    found = read_reports(Path(output) / "benchmarks.json")
    assert list(found) == ["train"]
    assert "numpy" in found["train"].machine["versions"]
    with pytest.raises(UsageError, match="unknown section 'trian'"):
        suite.main(suite.Arguments(("trian",)))
