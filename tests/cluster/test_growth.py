"""What more hosts cost: bytes sent a step against the gradient's size, and communication's share of the time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hosts import SHARED, Command, Hosts
from job import LONG, ONE_THREAD, PROGRAM, RESULTS, MakeHosts, start_job

from resnet_keras.config.table import read_table

pytestmark = [pytest.mark.growth, pytest.mark.timeout(1800)]

SHARE, EPOCHS = 32, 3
"""Images of a host's part of a batch."""
SIZE = ["--model", "resnet18", "--image-size", "32", "--precision", "float32"]
TRAIN_IMAGES = 1437
BYTES = 4 * 11_175_370
"""Of the gradients of a ResNet-18 for ten classes of grey images, in float32."""


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    head = (
        "| hosts | bytes a host sends a step | of the gradients | images/s together | side by side, apart | share |\n"
    )
    RESULTS.with_name("growth.md").write_text(head + "|---|---|---|---|---|---|\n" + "".join(rows))


def one_core(index: int) -> list[str]:
    """What runs a command on a core of its own, as far as there are."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[index % len(cores)])]


def size_of(hosts: int, epochs: int = EPOCHS) -> list[str]:
    return [*SIZE, "--epochs", str(epochs), "--batch-size", str(SHARE * hosts)]


def rate(run_dir: Path) -> float:
    """Images a second, of the epochs behind the first, in which the step is compiled."""
    seconds = [row["seconds"] for row in read_table(run_dir)][1:]
    return TRAIN_IMAGES // SHARE * SHARE / float(np.median(seconds))


def finished(commands: Sequence[Command]) -> None:
    for command in commands:
        assert command.finish(2 * LONG) == 0, command.said


def apart(hosts: Hosts, count: int) -> float:
    """Images a second of trainings that have nothing to do with one another, on as many cores."""
    commands = []
    for i in range(count):
        words = ["train", "digits", "--data-dir", f"{SHARED}/tfds", "--run-dir", f"{SHARED}/apart/{i}", *size_of(1)]
        commands.append(hosts.start(i % len(hosts.names), [*one_core(i), *PROGRAM, *words], ONE_THREAD))
    finished(commands)
    return sum(rate(hosts.shared / "apart" / str(i)) for i in range(count))


def row(what: str, sent: float | None, together: float, apart: float) -> str:
    megabytes, part = ("", "") if sent is None else (f"{sent / 1e6:.1f} MB", f"{sent / BYTES:.2f}")
    return f"| {what} | {megabytes} | {part} | {together:.0f} | {apart:.0f} | {1 - together / apart:.0%} |\n"


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_send_no_more_than_a_ring_has_to(count: int, make_hosts: MakeHosts, rows: list[str]) -> None:
    """Of each gradient, 2 (n - 1) / n times: once around to be summed, once to be known. In bfloat16 half of it."""
    hosts, steps = make_hosts(count), TRAIN_IMAGES // (SHARE * count)
    alone = apart(hosts, count)

    def run(epochs: int, gradients: str) -> float:
        """The most bytes that a host has sent."""
        before = [hosts.sent(i) for i in range(count)]
        more = ["--run-dir", f"{SHARED}/runs/{gradients}{epochs}", "--gradients", gradients]
        of_host = {i: {"before": one_core(i)} for i in range(count)}
        finished(start_job(hosts, more, of_host=of_host, size=size_of(count, epochs)))
        return max(hosts.sent(i) - then for i, then in enumerate(before))

    at_the_start = run(1, "float32") - steps * ring(count, BYTES)  # the weights, of which all get the first host's
    for gradients, share in (("float32", 1.0), ("bfloat16", 0.5)):
        sent = (run(EPOCHS, gradients) - at_the_start) / (EPOCHS * steps)
        together = rate(hosts.shared / "runs" / f"{gradients}{EPOCHS}")
        rows.append(row(f"{count}, {gradients}", sent, together, alone))
        least = ring(count, share * BYTES)
        assert least <= sent <= 1.1 * least


def test_processes_on_one_host_train_by_loopback(make_hosts: MakeHosts, rows: list[str]) -> None:
    hosts, count = make_hosts(1), 2
    alone, run_dir = apart(hosts, count), f"{SHARED}/runs/loopback"
    words = ["train", "digits", "--data-dir", f"{SHARED}/tfds", "--run-dir", run_dir, *size_of(count)]
    words += ["--strategy", "multiworker", "--hosts", "127.0.0.1:12345,127.0.0.1:12346", "--host-index"]
    finished([hosts.start(0, [*one_core(i), *PROGRAM, *words, str(i)], ONE_THREAD) for i in range(count)])
    rows.append(row(f"{count} processes, loopback", None, rate(hosts.shared / "runs" / "loopback"), alone))


def ring(count: int, gradients: float) -> float:
    """Bytes that each of so many hosts has to send to sum gradients of so many bytes."""
    return 2 * (count - 1) / count * gradients
