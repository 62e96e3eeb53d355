"""What is run once: a row of one call, whose process is its own, and files that others read."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_keras.benchmarks.report import Row
from resnet_keras.benchmarks.variants import Process
from resnet_keras.benchmarks.workers import workers
from resnet_keras.errors import UsageError
from resnet_keras.progress import progress


def once(points: Sequence[tuple[str, str, Process]], arguments: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
    """A row of one call for each (group, name, process), one process after the other, as its memory is its own."""
    rows, notes = [], []
    with progress("measuring once", len(points), "points") as task:
        for group, name, process in points:
            try:
                with workers({name: process}, {name: f"{group}: {name}"}) as started:
                    started[name].ready()
                    sample = started[name].run(1, arguments)
                    facts = {**started[name].facts, **sample.extra, "took": sample.seconds}
                rows.append(Row(group, name, (sample.rate,), None, None, facts))
            except UsageError as error:
                notes.append(f"{group}: {name} is left out: {error}")
            task.add()
    return rows, notes


def prepared(function: str, arguments: Mapping[str, Any]) -> list[str]:
    """Run what makes files, in a process of its own; lines for what it could not make."""
    process = Process(function, arguments)
    with progress("making files"), workers({"files": process}, {"files": "the files"}) as started:
        try:
            started["files"].ready()
        except UsageError as error:
            return [f"files are left out: {error}"]
        return [f"{name} is left out: {why}" for name, why in started["files"].facts.get("left_out", {}).items()]
