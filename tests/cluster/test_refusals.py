"""Hosts that cannot train together, or cannot write: refused, and named, on all of them."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hosts import SHARED, Hosts
from job import LONG, ROOT, MakeHosts, Table, after_a_checkpoint, ends_equal, is_equal, run_of, start_job, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def another_version(hosts: Hosts) -> Mapping[str, Any]:
    """The package as it is, but for its version, ahead of the installed one."""
    there = hosts.shared / "other" / "resnet_keras"
    shutil.copytree(ROOT / "resnet_keras", there, ignore=shutil.ignore_patterns("__pycache__"))
    (there / "version.py").write_text('__version__ = "9.9.9"\n')
    return {"environment": {"PYTHONPATH": f"{SHARED}/other"}}


def another_config(hosts: Hosts) -> Mapping[str, Any]:
    return {"more": ["--seed", "7"]}


@pytest.mark.parametrize(
    ("fault", "differs", "words"),
    [
        ("a host with another version", another_version, "has resnet-keras 9.9.9, and host 0 has"),
        ("a host with another config", another_config, "has seed 7, and host 0 has"),
    ],
)
def test_a_host_that_differs_is_named_on_all(
    fault: str, differs: Any, words: str, make_hosts: MakeHosts, table: Table
) -> None:
    hosts = make_hosts(3)
    started = time.monotonic()
    commands = start_job(hosts, of_host={2: differs(hosts)})
    codes = [command.finish(LONG) for command in commands]
    table.add_ends(fault, commands, time.monotonic() - started, "nothing was written")
    assert codes == [2, 2, 2], [command.said for command in commands]
    for command in commands:
        assert f"host 2 ({hosts.address(2)}) {words}" in command.last_line
        assert "Traceback" not in command.said
    assert not run_of(hosts).exists()


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_of_the_run_that_is_full_is_said_on_all_and_the_run_resumes(
    make_hosts: MakeHosts, undisturbed: dict[str, Any], table: Table
) -> None:
    hosts = make_hosts(2)
    runs = run_of(hosts).parent
    runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(runs)], check=True)
    try:
        commands = start_job(hosts)
        after_a_checkpoint(hosts, commands)
        since = time.monotonic()
        fill(runs / "others")
        codes = [command.finish(LONG) for command in commands]
        seconds = time.monotonic() - since
        with ends_equal("the disk of the run full", hosts, commands, seconds, undisturbed, table):
            assert not list(runs.rglob(".part-*"))
            assert codes == [2, 2], [command.said for command in commands]
            for command in commands:
                assert f"cannot write to {SHARED}/runs/r50: No space left on device" in command.last_line
                assert "Traceback" not in command.said
            (runs / "others").unlink()
            for command in start_job(hosts):
                assert command.finish(LONG) == 0, command.said
    finally:
        hosts.kill_all()
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_a_host_whose_own_disk_is_full_says_so_and_the_others_wait_for_it(
    make_hosts: MakeHosts, undisturbed: dict[str, Any], table: Table
) -> None:
    hosts = make_hosts(2)
    full = ["sh", "-c", 'cat /dev/zero > /tmp/others 2> /dev/null; exec "$@"', "sh"]
    chief, other = start_job(hosts, of_host={1: {"tmp": "64k", "before": full}})
    started = time.monotonic()
    assert other.finish(LONG) == 2, other.said
    seconds = time.monotonic() - started
    assert "/tmp is full" in other.last_line
    assert "Traceback" not in other.said
    chief.wait_for(f"waiting for host 1 ({hosts.names[1]}", LONG)
    again = start_job(hosts, only=1)[0]
    for command in (chief, again):
        assert command.finish(LONG) == 0, command.said
    equal = "equal" if is_equal(state_of(run_of(hosts)), undisturbed) else "not equal"
    seen = f"host 1: exit code 2, `{other.last_line}`<br>host 0: waits, names it after 20 s, and trains when it comes"
    table.add("a host's own disk full", seen, seconds, equal)
    assert equal == "equal"
