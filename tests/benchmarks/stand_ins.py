"""Programs without TensorFlow, for processes of a benchmark."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.variants import Process, Program, Variant
from resnet_keras.errors import UsageError


def sleeper(seconds: float = 0.001, log: str | None = None, name: str = "", **facts: Any) -> Program:
    """Sleeps, and writes its name into a log each time."""

    def run() -> None:
        time.sleep(seconds)
        if log:
            with open(log, "a") as file:
                file.write(name)

    print("a library prints this")
    return Program(run, 2, facts)


def dying(after: int, how: str) -> Program:
    """Ends its process after so many calls: by an error, an exit or a signal."""
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1
        if calls > after and how == "error":
            raise ValueError("no such thing")
        if calls > after:
            os.kill(os.getpid(), 9) if how == "signal" else sys.exit(3)

    return Program(run)


def imported() -> Program:
    """Which of two libraries its process has imported."""
    return Program(lambda: None, facts={name: name in sys.modules for name in ("tensorflow", "keras")})


def refusing(why: str) -> Program:
    raise UsageError(why)


def forever(log: str) -> Program:
    """Says which process it is, and never ends a call."""

    def run() -> None:
        Path(log).write_text(str(os.getpid()))
        time.sleep(600)

    return Program(run)


def description(folder: str) -> Program:
    return Program(lambda: None, facts={"macs": 10, "dtype": "float32", "shape": [4, 4, 3], "input": "image"})


def clients(count: int, **_: Any) -> Program:
    """Asks nobody: a server's address says how many images/s it answers."""

    def run(address: str, protocol: str, pixel_input: str | None, seconds: float) -> dict[str, Any]:
        rate = float(address.partition(":")[2]) * (2 if pixel_input else 1)
        return {"images": rate * seconds, "seconds": seconds, "p50": 1 / rate, "p99": 2 / rate}

    return Program(run)


def variant(called: str, function: str = "sleeper", group: str = "group", **arguments: Any) -> Variant:
    """A row of a program here."""
    return Variant(group, called, Process(f"stand_ins:{function}", arguments))
