"""Rounds: every variant takes its turn in each, one at a time, while the others wait."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resnet_keras.benchmarks.variants import Process, Sample, Variant
from resnet_keras.benchmarks.workers import Refused, Worker, workers
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


def measure(variants: Sequence[Variant], effort: Effort) -> tuple[list[Measured], list[str]]:
    """Start the processes of the variants, warm them up, and time them in turns.

    Groups that share no process are measured one after the other: no more processes hold memory than are compared.

    Returns:
        What was measured, in the order of the variants, and a line for each process that cannot run here.

    Raises:
        UsageError: a process has ended, or none can run here; then with the reason of the first.
    """
    measured: list[Measured] = []
    refusals: dict[str, Refused] = {}
    for part in apart(variants):
        found, refused = _measure_together(part, effort)
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


def _measure_together(variants: Sequence[Variant], effort: Effort) -> tuple[list[Measured], dict[str, Refused]]:
    """What can run, and the refusals of the others by their names."""
    processes: dict[str, Process] = {variant.process.key(): variant.process for variant in variants}
    names = {variant.process.key(): variant.name for variant in reversed(variants)}
    with workers(processes, names) as started:
        running: dict[str, Worker] = {}
        refusals: dict[str, Refused] = {}
        with progress("preparing", len(processes), "programs") as task:
            for key, worker in started.items():
                try:
                    worker.ready()
                    running[key] = worker
                except Refused as error:
                    refusals[worker.name] = error
                task.add()
        chosen = [variant for variant in variants if variant.process.key() in running]
        turns = [_warm(running[variant.process.key()], variant, effort) for variant in chosen]
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
