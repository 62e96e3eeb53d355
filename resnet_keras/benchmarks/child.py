"""A process of a benchmark: makes a program, then times it whenever it is asked to.

A line of JSON on standard input is a request, each answered by one on what was standard output. What libraries print
there goes to standard error. It ends when its input ends, so a benchmark that is killed leaves none behind.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from resnet_keras.benchmarks.variants import Program
from resnet_keras.errors import UsageError, reason
from resnet_keras.startup import import_tensorflow


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        request = json.loads(sys.stdin.readline() or "null")
        if request is None:
            return
        program = make(request["function"], request["arguments"])
        _answer(answers, {"facts": dict(program.facts), "images": program.images})
        for line in sys.stdin:
            request = json.loads(line)
            _answer(answers, timed(program, request["times"], request["arguments"]))
    except (UsageError, ImportError) as error:
        _answer(answers, {"refused": reason(error)})
    except BrokenPipeError:  # the benchmark has gone
        pass


def make(function: str, arguments: Mapping[str, Any]) -> Program:
    """The program of MODULE:FUNCTION. Ours are all TensorFlow's; a peer's module imports what it needs."""
    module, _, name = function.partition(":")
    if module.startswith("resnet_keras."):
        import_tensorflow()
    return getattr(importlib.import_module(module), name)(**arguments)


def timed(program: Program, times: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """So many calls in a row: images, seconds, and what the last of them returned."""
    extra: Mapping[str, Any] | None = None
    started = time.perf_counter()
    for _ in range(times):
        extra = program.run(**arguments)
    seconds = time.perf_counter() - started
    extra = dict(extra or {})
    if "seconds" not in extra:  # else a program that times itself, in one call
        extra["images"] = extra.get("images", program.images) * times
    return {"seconds": seconds, **extra}


def _answer(answers: IO[str], value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
