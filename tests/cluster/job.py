"""The job of `deploy/` on hosts of this machine, small, and the table of what was seen."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hosts import SHARED, Command, Hosts
from small import TINY

from resnet_keras.training.checkpoints import newest_checkpoint

ROOT = Path(__file__).parents[2]
RESULTS = Path(os.environ.get("CLUSTER_RESULTS", ROOT / "build" / "cluster" / "results.md"))
JOB = ROOT / "deploy" / "kubernetes" / "training-job.yaml"
RUN_DIR = "runs/r50"
"""Of the manifest, in the folder that all share."""
SMALL = ["--epochs", "4", "--batch-size", "128", "--checkpoint-steps", "4", "--precision", "float32"]
SMALL += ["--model-options", *(str(word) for pair in TINY.items() for word in pair)]
PROGRAM = [sys.executable, "-m", "resnet_keras"]
MakeHosts = Callable[..., Hosts]
"""Of so many hosts of the job; the fixture `make_hosts`."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
"""Of the hosts' own cores, of which there are fewer than hosts."""
LONG = 240.0
"""Seconds within which a command of a few seconds' work must end, on a machine with other work."""


def job_words(size: Sequence[str] = SMALL) -> list[str]:
    """The arguments of the manifest's container, for the digits and a network of a size that takes seconds."""
    job = list(yaml.safe_load_all(JOB.read_text()))[1]
    words = [
        word.replace("/shared/", f"{SHARED}/") for word in job["spec"]["template"]["spec"]["containers"][0]["args"]
    ]
    assert "imagenet-resnet50" in words
    return ["digits" if word == "imagenet-resnet50" else word for word in words] + list(size)


def start_job(
    hosts: Hosts,
    more: Sequence[str] = (),
    *,
    program: Sequence[str] = PROGRAM,
    of_host: Mapping[int, Mapping[str, Any]] | None = None,
    only: int | None = None,
    size: Sequence[str] = SMALL,
) -> list[Command]:
    """Start the job's command on all hosts, with the variables that Kubernetes gives an Indexed Job's pods.

    Args:
        hosts: as many as the job has pods.
        more: flags behind those of the job.
        program: what takes the words.
        of_host: by the index of a host, `more` and `environment` of its own, `tmp`, the size of its /tmp, and `before`,
            what is run with the command behind it.
        only: the one host on which it is started.
        size: flags of the network and its training.
    """
    started = []
    for index in range(len(hosts.names)) if only is None else [only]:
        own = (of_host or {}).get(index, {})
        environment = {
            "JOB_COMPLETION_INDEX": str(index),
            "JOB_COMPLETIONS": str(len(hosts.names)),
            **ONE_THREAD,
            **own.get("environment", {}),
        }
        words = [*own.get("before", []), *program, *job_words(size), *more, *own.get("more", [])]
        started.append(hosts.start(index, words, environment, own.get("tmp", "64m")))
    return started


def run_of(hosts: Hosts) -> Path:
    """The run folder, as this machine sees it."""
    return hosts.shared / RUN_DIR


def after_a_checkpoint(hosts: Hosts, commands: Sequence[Command]) -> None:
    """Return once there is a checkpoint."""
    end = time.monotonic() + LONG
    while not list(run_of(hosts).glob("checkpoints/step-*.npz")):
        for command in commands:
            assert command.process.poll() is None, command.said
        assert time.monotonic() < end, [command.said for command in commands]
        time.sleep(0.02)


def state_of(folder: Path) -> dict[str, Any]:
    """What a finished run ended with: all weights, batch_stats and optimizer state, and its table without times."""
    assert (folder / "metrics.json").is_file()
    checkpoint, damaged = newest_checkpoint(folder)
    assert checkpoint
    assert not damaged
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in checkpoint.notes["rows"]]
    return {**checkpoint.arrays, "rows": rows}


def is_equal(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether two states are equal to the last bit."""
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


@dataclasses.dataclass
class Table:
    """What each fault did."""

    rows: list[str] = dataclasses.field(default_factory=list)

    def add(self, fault: str, seen: str, seconds: float | None, equal: str) -> None:
        self.rows.append(f"| {fault} | {seen} | {'' if seconds is None else f'{seconds:.0f}'} | {equal} |")

    def add_ends(self, fault: str, commands: Sequence[Command], seconds: float | None, equal: str) -> None:
        """A row of the exit code and the last line of each host."""
        seen = [
            f"host {i}: killed" if c.killed else f"host {i}: exit code {c.process.returncode}, `{c.last_line}`"
            for i, c in enumerate(commands)
        ]
        self.add(fault, "<br>".join(seen), seconds, equal)


@contextlib.contextmanager
def ends_equal(
    fault: str, hosts: Hosts, commands: list[Command], seconds: float, undisturbed: dict[str, Any], table: Table
) -> Iterator[None]:
    """Behind it the run's state is that of the undisturbed run; the table has a row of it, also where that fails."""
    equal = "not run"
    try:
        yield
        equal = "equal" if is_equal(state_of(run_of(hosts)), undisturbed) else "not equal"
    finally:
        table.add_ends(fault, commands, seconds, equal)
    assert equal == "equal"
