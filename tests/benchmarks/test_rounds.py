"""Processes that take turns: their order, and what happens where one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_ins import variant

from resnet_keras.benchmarks.child import timed
from resnet_keras.benchmarks.pairs import paired_ratio, quartiles, ratio_of
from resnet_keras.benchmarks.rounds import Effort, apart, measure
from resnet_keras.benchmarks.variants import Process, Program, Variant
from resnet_keras.benchmarks.workers import Refused
from resnet_keras.errors import UsageError

SHORT = Effort(pairs=3, seconds=1e-6)


def test_variants_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    variants = [variant(name, log=str(log), name=name) for name in "ABC"]
    measured, left_out = measure(variants, SHORT)
    assert log.read_text() == "AABBCC" + "ABC" * SHORT.pairs  # each is warmed up by two calls, apart
    assert [one.variant.name for one in measured] == ["A", "B", "C"]
    assert all(len(one.samples) == SHORT.pairs and one.samples[0].images == 2 for one in measured)
    assert left_out == []


def test_variants_of_one_process_share_it(tmp_path: Path) -> None:
    process = Process("stand_ins:sleeper", {"log": str(tmp_path / "log"), "name": "x", "macs": 7})
    measured, _ = measure([Variant("group", name, process) for name in "AB"], SHORT)
    assert [one.facts for one in measured] == [{"macs": 7}] * 2


def test_groups_that_share_nothing_are_measured_one_after_the_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    variants = [variant(name, group=group, log=str(log), name=name) for group, name in ("1A", "1B", "2C", "2D")]
    measured, _ = measure(variants, Effort(2, 1e-6))
    assert log.read_text() == "AABB" + "ABAB" + "CCDD" + "CDCD"
    assert [one.variant for one in measured] == variants
    shared = variant("x")
    linked = [Variant("1", "a", shared.process), variant("b", group="2"), Variant("2", "c", shared.process)]
    assert apart([*linked, variant("d", group="3", seconds=0.1)]) == [linked, [variant("d", group="3", seconds=0.1)]]


def test_a_peer_s_process_has_no_tensorflow() -> None:
    """Threads of two libraries in one process slow each other down."""
    ((one,), _) = measure([variant("peer", "imported")], SHORT)
    assert one.facts == {"tensorflow": False, "keras": False}


@pytest.mark.parametrize(
    ("after", "how", "words"),
    [
        (0, "error", "the process of B ended with exit code 1: ValueError: no such thing"),
        (3, "exit", "the process of B ended with exit code 3"),
        (3, "signal", "the process of B was ended by SIGKILL"),
    ],
)
def test_a_process_that_dies_is_one_line(after: int, how: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        measure([variant("A"), variant("B", "dying", after=after, how=how)], SHORT)
    assert "\n" not in str(raised.value)


def test_what_cannot_run_here_is_left_out() -> None:
    measured, left_out = measure([variant("A"), variant("B", "refusing", why="no int8")], SHORT)
    assert [one.variant.name for one in measured] == ["A"]
    assert left_out == ["B is left out: no int8"]
    with pytest.raises(Refused, match="no int8"):
        measure([variant("B", "refusing", why="no int8")], SHORT)
    with pytest.raises(Refused, match="No module named 'a_peer'"):
        measure([Variant("group", "peer", Process("a_peer:step"))], SHORT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process(number: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import sys; sys.argv = ['resnet-keras']\n"
        "from stand_ins import variant\n"
        "from resnet_keras.benchmarks.rounds import Effort, measure\n"
        "from resnet_keras.benchmarks.workers import ends_by_signals\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with ends_by_signals():\n"
        f"    measure([variant('A'), variant('B', 'forever', log={str(log)!r})], Effort(2, 0.01))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_a_call_counts_its_images() -> None:
    assert timed(Program(lambda: None, 3), 4, {})["images"] == 12
    assert timed(Program(lambda n: {"images": n}), 4, {"n": 5})["images"] == 20
    assert timed(Program(lambda: {"images": 5, "seconds": 2.0, "p50": 1.0}), 1, {}) == {
        "images": 5,
        "seconds": 2.0,
        "p50": 1.0,
    }


def test_ratios_are_of_pairs() -> None:
    assert ratio_of([2, 4, 12], [1, 2, 3]) == (2.0, 2.0, 4.0)
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0]) == (1.5, 1.0, 2.0)
    calls: list[str] = []
    paired_ratio(lambda: calls.append("A"), lambda: calls.append("B"), 3)
    assert "".join(calls) == "AB" + "AB" * 3
