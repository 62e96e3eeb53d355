"""Rounds: every variant takes its turn in each, one at a time, while the others wait."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resnet_keras.benchmarks.variants import Process, Sample, Variant
from resnet_keras.benchmarks.workers import Refused, Worker, workers
from resnet_keras.errors import UsageError
from resnet_keras.progress import progress

PAUSE = 0.1
"""Seconds before each turn, in which the threads of the one before stop looking for work."""
MOST_TIMES = 100_000


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    pairs: int = 7
    """Rounds, so pairs of each two variants."""
    seconds: float = 1.0
    """Of a turn, at least one call."""


@dataclass(frozen=True)
class Measured:
    """The samples of a variant, one a round, and what its program says of itself."""

    variant: Variant
    samples: tuple[Sample, ...]
    facts: Mapping[str, object]


def in_turns(turns: Sequence[Callable[[], Sample]], pairs: int, what: str) -> list[list[Sample]]:
    """The samples of each, taken A B C A B C ...; a list a turn, with one sample a round."""
    found: list[list[Sample]] = [[] for _ in turns]
    with progress(what, pairs * len(turns), "timings") as task:
        for _ in range(pairs):
            for samples, turn in zip(found, turns, strict=True):
                time.sleep(PAUSE)
                samples.append(turn())
                task.add()
    return found


def measure(variants: Sequence[Variant], effort: Effort, *, lenient: bool = False) -> tuple[list[Measured], list[str]]:
    """Start the processes of the variants, warm them up, and time them in turns.

    Groups that share no process are measured one after the other: no more processes hold memory than are compared.

    Args:
        variants: what is compared.
        effort: how much is measured.
        lenient: a process that ends before its first turn, as a peer's may, is left out too; one that ends later takes
            its groups with it.

    Returns:
        What was measured, in the order of the variants, and a line for each process that cannot run here.

    Raises:
        UsageError: a process has ended, or none can run here; then with the reason of the first.
    """
    measured: list[Measured] = []
    refusals: dict[str, UsageError] = {}
    for part in apart(variants):
        try:
            found, refused = _measure_together(part, effort, lenient)
        except UsageError as error:
            if not lenient:
                raise
            found, refused = [], {part[0].group: error}
        measured += found
        refusals |= refused
    if not measured:
        raise next(iter(refusals.values()))
    measured.sort(key=lambda one: variants.index(one.variant))
    return measured, [f"{name} is left out: {error}" for name, error in refusals.items()]


def apart(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants in parts, of which no two have a group or a process in common."""
    parts: list[list[Variant]] = []
    for variant in variants:
        near = [
            part
            for part in parts
            if any(one.group == variant.group or one.process.key() == variant.process.key() for one in part)
        ]
        joined = [one for part in near for one in part]
        parts = [part for part in parts if part not in near] + [[*joined, variant]]
    return parts


def _measure_together(
    variants: Sequence[Variant], effort: Effort, lenient: bool
) -> tuple[list[Measured], dict[str, UsageError]]:
    """What can run, and why the others cannot, by their names; their titles where it is lenient."""
    processes: dict[str, Process] = {variant.process.key(): variant.process for variant in variants}
    names = {each.process.key(): each.title if lenient else each.name for each in reversed(variants)}
    spared = UsageError if lenient else Refused
    with workers(processes, names) as started:
        running: dict[str, Worker] = {}
        refusals: dict[str, UsageError] = {}
        with progress("preparing", len(processes), "programs") as task:
            for key, worker in started.items():
                try:
                    worker.ready()
                    running[key] = worker
                except spared as error:
                    refusals[worker.name] = error
                task.add()
        warm: list[tuple[Variant, Callable[[], Sample]]] = []
        for variant in variants:
            if worker := running.get(variant.process.key()):
                try:
                    warm.append((variant, _warm(worker, variant, effort)))
                except spared as error:
                    refusals[worker.name] = error
                    del running[variant.process.key()]
        warm = [(variant, turn) for variant, turn in warm if variant.process.key() in running]
        chosen, turns = [variant for variant, _ in warm], [turn for _, turn in warm]
        samples = in_turns(turns, effort.pairs, f"measuring {chosen[0].group}") if chosen else []
        found = [
            Measured(variant, tuple(own), running[variant.process.key()].facts)
            for variant, own in zip(chosen, samples, strict=True)
        ]
    return found, refusals


def _warm(worker: Worker, variant: Variant, effort: Effort) -> Callable[[], Sample]:
    """Call a program twice, apart from what is measured: traced, and timed for as many calls as fill a turn."""
    worker.run(1, variant.arguments)
    once = worker.run(1, variant.arguments).seconds
    times = max(1, min(MOST_TIMES, round(effort.seconds / max(once, 1e-9))))
    return lambda: worker.run(times, variant.arguments)
