"""The processes of a benchmark, as seen by the one that asks them. Standard library only."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from resnet_keras.benchmarks.variants import Process, Sample
from resnet_keras.errors import UsageError

STOP_SECONDS = 5
"""That a process has to end by itself."""
CODE = "import sys; sys.argv = ['resnet-keras']; from resnet_keras.benchmarks.child import main; main()"
"""As the program itself, which imports no TensorFlow by itself: beside it a peer would be slower."""


class Refused(UsageError):  # noqa: N818
    """A program that cannot be made here, such as int8 where TensorFlow has no operation for it."""


class Worker:
    """A process that holds a program. It takes its turn when it is asked to, and sleeps in between.

    Args:
        process: what it is to hold. It starts at once; `ready` waits for it.
        name: how messages call it.
        folder: for its temporary files, for it is killed in the end.
    """

    def __init__(self, process: Process, name: str, folder: str) -> None:
        self.name, self.facts = name, {}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in `stop`)
        paths = os.pathsep.join(path for path in sys.path if path)
        # A session of its own: Ctrl-C is ours alone to answer, by ending it.
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": folder, "PYTHONPATH": paths, **process.environment},
        )
        self._send({"function": process.function, "arguments": process.arguments})

    def ready(self) -> None:
        """Wait until the program is made.

        Raises:
            Refused: it cannot be made here.
            UsageError: the process has ended.
        """
        self.facts = self._receive()["facts"]

    def run(self, times: int = 1, arguments: Mapping[str, Any] | None = None) -> Sample:
        """Time so many calls in a row. Raises `UsageError` where the process has ended."""
        self._send({"times": times, "arguments": dict(arguments or {})})
        found = self._receive()
        return Sample(found.pop("images"), found.pop("seconds"), found)

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer

    def _ended(self) -> UsageError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        code = self._process.poll()
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return UsageError(f"the process of {self.name} was ended by {signal.Signals(-code).name}; {MEMORY}")
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return UsageError(
            f"the process of {self.name} ended with exit code {code}: {(lines or ['it said nothing'])[-1]}"
        )

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with what it has started itself
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()


MEMORY = "where memory is short, take a smaller batch or image, or fewer variants"


@contextlib.contextmanager
def workers(processes: Mapping[str, Process], names: Mapping[str, str]) -> Iterator[dict[str, Worker]]:
    """Processes by their keys, all started at once; none is left at the end, however it comes."""
    started: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(prefix="resnet-keras-benchmark-") as folder:
        try:
            for key, process in processes.items():
                started[key] = Worker(process, names[key], folder)
            yield started
        finally:
            for worker in started.values():
                worker.stop()


@contextlib.contextmanager
def ends_by_signals() -> Iterator[None]:
    """Within it SIGTERM ends the program as Ctrl-C does, so that its processes are ended too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
