"""Training a config in a process of its own: a crash, or too much memory, ends that process alone."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnet_keras.config.run_folder import HISTORY, METRICS
from resnet_keras.config.train import TrainConfig
from resnet_keras.files import read_json, write_text
from resnet_keras.progress import progress

CONFIG = "config.json"
LOG = "log.txt"
# A search that is killed must not leave a training behind, whose folder the next one would share. 1 is PR_SET_PDEATHSIG
# of prctl(2). Not a preexec_fn of Popen: Python would fork for it, and gRPC's handlers in a fork abort now and then.
PROGRAM = """
import ctypes, os, signal, sys
parent = int(sys.argv.pop(1))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
from resnet_keras.cli.main import main
sys.exit(main())
"""


class OutOfTime(BaseException):
    """The time is up; what was under way has its checkpoint. KerasTuner takes an Exception for a failed trial."""


class RunError(Exception):
    """A run that came to nothing; says why in one line."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run found."""

    accuracy: float
    loss: float
    seconds: float
    """From the start of its process to the end; those of an earlier process of the same run are not in it."""


def run(config: TrainConfig, folder: Path, deadline: float | None = None) -> Outcome:
    """Train a config in `folder/run`, or resume what an earlier process left there.

    Args:
        config: its run_dir is not used.
        folder: has `config.json`, `log.txt` and `run`, a run folder.
        deadline: of `time.monotonic`.

    Raises:
        RunError: the run was refused, diverged or crashed.
        OutOfTime: the deadline has come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, config.to_json() + "\n")
    run_dir, started = folder / "run", time.monotonic()
    words = ["train", str(folder / CONFIG), "--run-dir", str(run_dir)]
    with open(folder / LOG, "ab") as log:
        command = [sys.executable, "-c", PROGRAM, str(os.getpid()), *words]
        # A group of its own: Ctrl-C is for the search, which passes it on.
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        with progress(folder.name.replace("_", " "), config.epochs) as task:
            code = _wait(process, deadline, lambda: task.to(_epochs_in(run_dir / HISTORY)))
    if code:
        raise RunError(_why(code, folder / LOG))
    metrics = read_json(run_dir / METRICS, "remove its folder, and the trial runs again")
    return Outcome(metrics["accuracy"], metrics["loss"], time.monotonic() - started)


def _wait(process: "subprocess.Popen[bytes]", deadline: float | None, look: Callable[[], None]) -> int:
    try:
        while True:
            left = math.inf if deadline is None else deadline - time.monotonic()
            try:
                return process.wait(max(0.0, min(left, 1.0)))
            except subprocess.TimeoutExpired:
                look()
                if deadline is not None and time.monotonic() >= deadline:
                    raise OutOfTime from None
    except BaseException:
        process.send_signal(signal.SIGTERM)  # it writes a checkpoint
        process.wait()
        raise


def _epochs_in(table: Path) -> int:
    """Rows of the table of a run, which is written anew after each epoch."""
    try:
        return max(0, len(table.read_text("utf-8").splitlines()) - 1)
    except OSError:  # there is none yet
        return 0


def _why(code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    last = lines[-1].removeprefix("resnet-keras: ") if lines else "it printed nothing"
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"ended by {name}{', which is how Linux ends a process that takes too much memory' * (name == 'SIGKILL')}"
        )
    return last
