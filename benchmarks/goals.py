"""The goals of this project's speed, as a table, and how far the measured rows are from them. Standard library only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.growth import AXES, MARGIN
from benchmarks.sections import (
    APPLICATIONS,
    BUILD,
    CLASSIFIERS,
    COMPILED,
    EAGER,
    EXPORT,
    OURS,
    OURS_FLOAT,
    START,
    WRITE,
)
from benchmarks.serve_section import CLIENTS, DIRECT, DTYPES, GRPC, REST, group
from resnet_keras.benchmarks.pairs import Ratio, quartiles, ratio_of
from resnet_keras.benchmarks.report import Report, Row


@dataclass(frozen=True)
class Goal:
    """A row of ours beside a peer's, or beside a number."""

    what: str
    """As the table has it."""
    section: str
    group: str
    ours: str
    """The name of our row in the group."""
    peers: tuple[str, ...] = ()
    """Names of rows of the same group, of which the fastest counts; none for a goal without a peer."""
    dtype: str = ""
    least: float = 0.0
    """Of the ratio to the peer, or without a peer of images/s."""
    share: float = 0.0
    """Least share of the machine's limit."""
    most: float = 0.0
    """Seconds of a call, or what `fact` is, at most."""
    fact: str = ""
    """Such as `mib`: what `most` is of, in place of seconds."""
    holds: str = ""
    """A fact that is to be true."""


@dataclass(frozen=True)
class Hours:
    """A goal that takes hours, which `make bench` does not measure."""

    what: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a goal."""

    goal: Goal
    peer: str = ""
    ours: str = ""
    """With its unit: images/s, seconds, MiB."""
    ratio: Ratio | None = None
    share: float | None = None
    wanted: str = ""
    verdict: str = ""
    """`met`, or by how much not, or why nobody knows."""
    met: bool | None = None


def _training() -> Iterable[Goal]:
    networks = [("ResNet-50 at 224", "resnet50", 224, 16), ("ResNet-50 at 224", "resnet50", 224, 32)]
    networks.append(("ResNet-20 (CIFAR)", "cifar_resnet20", 32, 128))
    for words, model, side, batch in networks:
        for dtype, eager, compiled in (("float32", 1.3, 1.1), ("bfloat16", 1.2, 1.05)):
            what, where = f"Training step, {words}, batch {batch}", f"{model} {side}x{side} batch {batch} {dtype}"
            yield Goal(what, "train", where, OURS, (EAGER,), dtype, eager)
            yield Goal(what, "train", where, OURS, (COMPILED,), dtype, compiled)
            if dtype == "bfloat16":
                yield Goal(what, "train", where, OURS, (OURS_FLOAT,), dtype, 1.9)
            yield Goal(what, "train", where, OURS, (), dtype, share=0.75)


def _inference() -> Iterable[Goal]:
    for batch, least in ((1, 0.85), (8, 0.95), (32, 0.95)):
        for dtype in ("float32", "bfloat16", "int8"):
            where = f"resnet50 224x224 batch {batch}"
            peer = (f"OpenVINO {dtype}",)
            yield Goal(f"Export of ResNet-50, batch {batch}", "infer", where, f"servable {dtype}", peer, dtype, least)
    for name in CLASSIFIERS:
        for dtype, least in (("float32", 1.15), ("bfloat16", 2.0)):
            what, where = f"Export of keras.applications' {name}, batch 8", f"{name} 224x224 batch 8"
            yield Goal(what, "classifiers", where, f"servable {dtype}", (EXPORT,), dtype, least)


def _serving() -> Iterable[Goal]:
    for dtype in DTYPES:
        for clients in CLIENTS:
            for way in (GRPC, REST):
                what = f"Serving, {clients} clients, {way.partition(', ')[2]}"
                yield Goal(what, "serve", group(dtype, clients), way, DIRECT, dtype, 0.95)


JPEG, MEMORY = "random 224x224 batch 64", "32x32 in memory, batch 128, "
GOALS: tuple[Goal, ...] = (
    *_training(),
    *_inference(),
    *_serving(),
    Goal("Input, CIFAR, crop and flip of each image", "input", MEMORY + "crop and flip", "ours", least=100_000),
    Goal("Input, JPEG to 224", "input", JPEG, "as imagenet-resnet50", ("decode then crop",), least=1.2),
    Goal("Input, JPEG to 224", "input", JPEG, "as imagenet-resnet50", ("the decoder alone",), least=0.9),
    Goal("Input, RandAugment", "input", MEMORY + "randaugment", "ours", ("Keras's layers",), least=2.0),
    Goal("`resnet-keras --help`", "start", START, "--help", most=0.3),
    Goal("`resnet-keras models`", "start", START, "models", most=0.3),
    Goal(
        "`import resnet_keras`, without TensorFlow", "start", START, "import resnet_keras", holds="without_tensorflow"
    ),
    Goal("ResNet-50 built", "start", BUILD, "resnet50", (f"{APPLICATIONS} ResNet50",), least=2.0),
    Goal("ResNet-1202 built", "start", BUILD, "cifar_resnet1202", most=6.0),
    Goal("ResNet-50 exported", "start", WRITE, "resnet50 float32", dtype="float32", most=5.0),
    Goal("ResNet-50 exported", "start", WRITE, "resnet50 bfloat16", dtype="bfloat16", most=5.0),
    Goal("ResNet-50 exported", "start", WRITE, "resnet50 int8", dtype="int8", most=25.0),
    Goal("ResNet-152 exported, MiB", "start", WRITE, "resnet152 float32", dtype="float32", most=2048, fact="mib"),
)
HOURS = (
    Hours(
        "Accuracy on CIFAR-10 (JPEG Q75) by time, beside PyTorch",
        (
            "resnet-keras train cifar10-fast --data-dir DIR",
            "python -m benchmarks.cifar_torch cifar10-resnet20-short --data-dir DIR",
        ),
    ),
)


def outcome(goal: Goal, reports: Mapping[str, Report]) -> Outcome:
    """What the reports say of a goal; `met` is None where a row of it is not there."""
    rows = {row.name: row for row in _rows(reports, goal.section) if row.group == goal.group}
    ours = rows.get(goal.ours)
    if ours is None:
        return Outcome(goal, wanted=_wanted(goal), verdict=f"not measured: no row {goal.ours!r}")
    peers = [rows[name] for name in goal.peers if name in rows]
    if goal.peers and not peers:
        missing = " and ".join(goal.peers)
        return Outcome(goal, ours=_measure(goal, ours), wanted=_wanted(goal), verdict=f"not measured: no {missing}")
    return judged(goal, ours, max(peers, key=lambda row: row.rate.median) if peers else None)


def judged(goal: Goal, ours: Row, peer: Row | None) -> Outcome:
    """A row of ours beside the peer's, pair by pair."""
    ratio = ratio_of(ours.rates, peer.rates) if peer else None
    found: list[tuple[bool, str]] = []
    if ratio:
        found.append(_at_least(ratio.median, goal.least))
    elif goal.least:
        found.append(_at_least(ours.rate.median, goal.least))
    if goal.share:
        found.append(_at_least(ours.share, goal.share) if ours.share is not None else (False, "the limit is unknown"))
    if goal.most:
        value = _value(goal, ours)
        found.append((value <= goal.most, f"{value / goal.most:.2f} times what it may be"))
    if goal.holds:
        found.append((bool(ours.facts.get(goal.holds)), "it does not hold"))
    met = all(each for each, _ in found)
    verdict = "met" if met else "; ".join(words for each, words in found if not each)
    name = "" if peer is None else f"{peer.name} ({_measure(goal, peer)})"
    return Outcome(goal, name, _measure(goal, ours), ratio, ours.share, _wanted(goal), verdict, met)


def _at_least(value: float, least: float) -> tuple[bool, str]:
    return value >= least, f"{1 - value / least:.0%} short"


def _value(goal: Goal, row: Row) -> float:
    return float(row.facts[goal.fact]) if goal.fact else quartiles([1 / rate for rate in row.rates]).median


def _measure(goal: Goal, row: Row) -> str:
    if goal.fact:
        return number(_value(goal, row))
    return f"{_value(goal, row):.3g} s" if goal.section == "start" else f"{number(row.rate.median)} images/s"


def _wanted(goal: Goal) -> str:
    parts = []
    if goal.least:
        parts.append(f"{goal.least:g} of the peer" if goal.peers else f"{goal.least:,.0f} images/s")
    if goal.share:
        parts.append(f"{goal.share:.0%} of the limit")
    if goal.most:
        parts.append(f"at most {goal.most:,.0f} MiB" if goal.fact else f"at most {goal.most:g} s")
    return ", ".join(parts) or "that it holds"


def number(value: float) -> str:
    """Four digits, with commas where there are more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _rows(reports: Mapping[str, Report], section: str) -> tuple[Row, ...]:
    return reports[section].rows if section in reports else ()


def outcomes(reports: Mapping[str, Report]) -> list[Outcome]:
    """All goals in their order; those of growth by the slopes of its report."""
    found = [outcome(goal, reports) for goal in GOALS]
    slopes = reports["growth"].settings.get("slopes", []) if "growth" in reports else []
    for axis in AXES:
        own = next((each for each in slopes if each["axis"] == axis.name), None)
        found += [_growth(axis.name, own, what, getattr(axis, what)) for what in ("time", "memory")]
    return found


def _growth(axis: str, slopes: Mapping[str, Any] | None, what: str, exponent: float) -> Outcome:
    goal = Goal(f"Growth of {what} by {axis}", "growth", axis, what)
    wanted = f"slope at most {exponent:g} + {MARGIN:g}"
    if slopes is None:
        return Outcome(goal, wanted=wanted, verdict="not measured: fewer than two points")
    value = slopes[what]
    met = value <= exponent + MARGIN
    verdict = "met" if met else f"{value - exponent - MARGIN:.2f} above"
    return Outcome(goal, ours=f"slope {value:.2f}", wanted=wanted, verdict=verdict, met=met)
