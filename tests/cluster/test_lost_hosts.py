"""A training on several hosts, and what can happen to one of them."""

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hosts import Command, Hosts
from job import (
    LONG,
    MakeHosts,
    Table,
    after_a_checkpoint,
    ends_equal,
    is_equal,
    job_words,
    run_of,
    start_job,
    state_of,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NOTICED = 120.0
"""Seconds within which all hosts must have answered to a fault."""

DIGEST = """
import hashlib, sys
from resnet_keras.cli.main import main
from resnet_keras.training import trainer
made = trainer.TrainResult
def result(model, *rest):
    bytes_ = b"".join(weight.tobytes() for weight in model.get_weights())
    print("weights", hashlib.sha256(bytes_).hexdigest())
    return made(model, *rest)
trainer.TrainResult = result
sys.exit(main(sys.argv[1:]))
"""
"""The program, which also prints a digest of the weights that a host ends with: host 0 alone writes them."""

FOUR_DEVICES = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)
from resnet_keras.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def digest(command: Command) -> str:
    return next(line for line in command.said.splitlines() if line.startswith("weights "))


def restarted(hosts: Hosts) -> list[Command]:
    """The same command on all hosts, to its end."""
    commands = start_job(hosts)
    for command in commands:
        assert command.finish(LONG) == 0, command.said
    return commands


def ends(commands: list[Command], since: float) -> float:
    """Wait until all have ended, and return the seconds from the fault to the last."""
    for command in commands:
        command.finish(max(1.0, since + NOTICED - time.monotonic()))
    return time.monotonic() - since


def one_line(command: Command, code: int, words: str) -> None:
    assert command.process.returncode == code, command.said
    assert words in command.last_line, command.said
    assert "Traceback" not in command.said


def test_four_hosts_end_where_one_process_with_four_devices_ends(make_hosts: MakeHosts, table: Table) -> None:
    hosts = make_hosts(4)
    started = time.monotonic()
    commands = start_job(hosts, program=[sys.executable, "-c", DIGEST])
    for command in commands:
        assert command.finish(LONG) == 0, command.said
    seconds = time.monotonic() - started
    assert len({digest(command) for command in commands}) == 1
    ours = state_of(run_of(hosts))
    alone = [word.replace("multiworker", "mirrored").replace("/runs/", "/alone/") for word in job_words()]
    command = hosts.start(0, [sys.executable, "-c", FOUR_DEVICES, *alone])
    assert command.finish(LONG) == 0, command.said
    assert "MirroredStrategy on 4 CPUs" in command.said
    theirs = state_of(hosts.shared / "alone" / run_of(hosts).name)
    names = [name for name in ours if name.startswith("variable:")]
    worst = max(float(np.abs(ours[name] - theirs[name]).max()) for name in names)
    # The gradients of four devices are summed in another order, and 44 steps let the rounding grow.
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0.02, atol=2e-3)
    table.add("none, four hosts", "exit code 0 on all", seconds, f"hosts equal; {worst:.0e} from one process")


def kill_the_other(hosts: Hosts, commands: list[Command]) -> None:
    commands[1].kill()


def kill_the_chief(hosts: Hosts, commands: list[Command]) -> None:
    commands[0].kill()


def cut_the_link(hosts: Hosts, commands: list[Command]) -> None:
    hosts.cut(1)


@pytest.mark.parametrize(
    ("fault", "strikes"),
    [
        ("a host killed -9", kill_the_other),
        ("the chief killed -9", kill_the_chief),
        ("the link cut", cut_the_link),
    ],
)
def test_a_host_that_is_lost_ends_the_run_everywhere_and_it_resumes(
    fault: str,
    strikes: Callable[[Hosts, list[Command]], None],
    make_hosts: MakeHosts,
    undisturbed: dict[str, Any],
    table: Table,
) -> None:
    hosts = make_hosts(2)
    commands = start_job(hosts)
    after_a_checkpoint(hosts, commands)
    strikes(hosts, commands)
    seconds = ends(commands, time.monotonic())
    hosts.mend(1)
    with ends_equal(fault, hosts, commands, seconds, undisturbed, table):
        for command in commands:
            if not command.killed:
                one_line(command, 1, "another host of the run has gone")
        restarted(hosts)


def pause(hosts: Hosts, commands: list[Command]) -> None:
    commands[1].send(signal.SIGSTOP)
    time.sleep(60)
    commands[1].send(signal.SIGCONT)


def cut_and_mend(hosts: Hosts, commands: list[Command]) -> None:
    hosts.cut(1)
    time.sleep(10)
    hosts.mend(1)


@pytest.mark.parametrize(
    ("fault", "strikes"), [("a host paused for 60 s", pause), ("the link cut for 10 s", cut_and_mend)]
)
def test_a_host_that_comes_back_goes_on_or_all_end_and_resume(
    fault: str,
    strikes: Callable[[Hosts, list[Command]], None],
    make_hosts: MakeHosts,
    undisturbed: dict[str, Any],
    table: Table,
) -> None:
    hosts = make_hosts(2)
    commands = start_job(hosts)
    after_a_checkpoint(hosts, commands)
    since = time.monotonic()
    strikes(hosts, commands)
    seconds = ends(commands, since)
    with ends_equal(fault, hosts, commands, seconds, undisturbed, table):
        if [command.process.returncode for command in commands] != [0, 0]:
            for command in commands:
                one_line(command, 1, "another host of the run has gone")
            restarted(hosts)


def test_packets_that_are_lost_and_late_change_nothing(
    make_hosts: MakeHosts, undisturbed: dict[str, Any], table: Table
) -> None:
    hosts = make_hosts(2, wires=True)
    hosts.wires[1].loss, hosts.wires[1].delay = 0.05, 0.1
    started = time.monotonic()
    commands = start_job(hosts)
    for command in commands:
        assert command.finish(2 * LONG) == 0, command.said
    seconds = time.monotonic() - started
    wire = hosts.wires[1]
    assert wire.lost > 10
    equal = is_equal(state_of(run_of(hosts)), undisturbed)
    what = f"5 % of packets lost, all 100 ms late, each way ({wire.lost:,} of {wire.carried:,})"
    table.add(what, "exit code 0 on both", seconds, "equal" if equal else "not equal")
    assert equal
