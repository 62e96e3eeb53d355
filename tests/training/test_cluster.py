"""The hosts of a run, from what starts them, and how they meet."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import free_ports

from resnet_keras.cli.commands import Train
from resnet_keras.cli.main import main
from resnet_keras.config.recipes import recipe
from resnet_keras.errors import UsageError
from resnet_keras.training.cluster import Cluster, expand_nodes, find_cluster, given_cluster
from resnet_keras.training.rendezvous import meet

SLURM = {"SLURM_STEP_NODELIST": "n[9-10],gpu7", "SLURM_STEP_TASKS_PER_NODE": "1(x3)", "SLURM_PROCID": "1"}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
POD = {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "3"}
POD_NAME = "train-1.train.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("environ", "index", "hosts"),
    [
        ({}, None, ()),
        ({"TF_CONFIG": ""}, None, ()),
        ({"TF_CONFIG": '{"cluster": {}}'}, None, ()),
        ({"SLURM_JOB_NODELIST": "n[1-2]"}, None, ()),  # a shell in an allocation, which is none of its tasks
        (SLURM, 1, ("n9:12345", "n10:12345", "gpu7:12345")),
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)"},
            1,
            ("n9:12345", "n9:12346", "n10:12345", "gpu7:12345"),
        ),
        (MPI, 1, ("127.0.0.1:12345", "127.0.0.1:12346")),
        (
            {
                **MPI,
                "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
                "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.5:385;tcp6://[::1]:4",
            },
            1,
            ("10.0.0.5:12345",),
        ),
        (POD, 1, tuple(f"train-{i}.train.default.svc.cluster.local:12345" for i in range(3))),
    ],
)
def test_what_the_environment_tells(
    environ: dict[str, str], index: int | None, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: POD_NAME)
    found = find_cluster(environ)
    assert (found.index if found else None) == index
    assert (found.hosts if found else ()) == hosts


def test_tf_config_comes_first_and_its_chief_is_host_0() -> None:
    cluster = {"worker": ["a:1", "b:1"], "chief": ["c:1"], "ps": ["d:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
    found = find_cluster({**SLURM, "TF_CONFIG": text})
    assert found
    assert (found.index, found.hosts, found.size) == (1, ("c:1", "a:1", "b:1"), 3)
    assert json.loads(found.tf_config(found.hosts))["task"] == {"type": "worker", "index": 1}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SLURM_PROCID": "0"}, "SLURM_PROCID is set, but not SLURM_STEP_NODELIST"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "two"}, "SLURM_STEP_TASKS_PER_NODE is 'two'"),
        ({**SLURM, "SLURM_STEP_NODELIST": "n[1-"}, "cannot be read"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_DISTRIBUTION": "cyclic"}, "use -m block"),
        ({**POD, "JOB_COMPLETION_INDEX": "2"}, "set subdomain"),  # which is not this one's name
        ({"JOB_COMPLETION_INDEX": "0"}, "but not JOB_COMPLETIONS"),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "give --hosts"),
        ({**MPI, "OMPI_COMM_WORLD_RANK": "x"}, "cannot be read"),
    ],
)
def test_an_environment_that_is_not_whole_is_refused(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: POD_NAME)
    with pytest.raises(UsageError, match=message) as error:
        find_cluster(environ)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("hosts", "index", "message"),
    [
        ("", 0, "--hosts is not like"),
        ("a:1,,b:1", 0, "--hosts is not like"),
        ("a:1,http://b:1", 0, "is no HOST:PORT"),
        ("a,a:12345", 0, "names a:12345 twice"),
        ("a,b", None, "--host-index must be 0 to 1"),
        ("a,b", 2, "--host-index must be 0 to 1"),
    ],
)
def test_wrong_hosts_are_refused(
    hosts: str, index: int | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=message):
        given_cluster(hosts, index)
    words = ["--host-index", str(index)] if index is not None else []
    assert main(["train", "digits", "--hosts", hosts, *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_flags_that_are_only_checked_change_nothing() -> None:
    Train(recipe("digits"), hosts="a,b", host_index=0).check()
    assert "TF_CONFIG" not in os.environ


def test_hosts_have_a_port_of_their_own_unless_one_is_given() -> None:
    assert given_cluster("a, 10.0.0.2:99,[fd00::2]", 2).hosts == ("a:12345", "10.0.0.2:99", "[fd00::2]:12345")


PARTS = st.one_of(
    st.from_regex(r"[a-z]{1,3}[0-9]{0,2}", fullmatch=True),
    st.tuples(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.integers(0, 120), st.integers(0, 12)).map(
        lambda part: f"{part[0]}[{part[1]:03d}-{part[1] + part[2]:03d}]"
    ),
    st.from_regex(r"rack\[[0-2]-[3-5]\]n\[[1-3],[5-7]-[8-9]\]", fullmatch=True),
)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_a_list_of_nodes_is_expanded_in_its_order(parts: list[str]) -> None:
    whole = expand_nodes(",".join(parts))
    assert whole == [node for part in parts for node in expand_nodes(part)]
    assert not {"[", "]", ","} & set("".join(whole))


@pytest.mark.skipif(not shutil.which("scontrol"), reason="SLURM's scontrol is not installed")
@pytest.mark.parametrize("text", ["a1", "n[1-3,08-11],m5", "rack[0-1]n[1,3-4],x"])
def test_scontrol_expands_as_we_do(text: str) -> None:
    done = subprocess.run(["scontrol", "show", "hostnames", text], capture_output=True, text=True, check=False)
    if "SLURM configless" in done.stderr or "slurm.conf" in done.stderr:
        pytest.skip("SLURM is not configured here")
    assert expand_nodes(text) == done.stdout.split()


@pytest.mark.slow  # 8 s
@pytest.mark.skipif(not shutil.which("mpirun"), reason="Open MPI's mpirun is not installed")
def test_mpirun_tells_the_hosts() -> None:
    code = "import os; from resnet_keras.training.cluster import find_cluster as find; c = find(os.environ); "
    code += "print(c.index, c.hosts)"
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == [f"{i} ('127.0.0.1:12345', '127.0.0.1:12346')" for i in range(2)]


class Hosts:
    """A cluster of threads on this machine."""

    def __init__(self, size: int, known: int | None = None) -> None:
        self.hosts = tuple(f"127.0.0.1:{port}" for port in free_ports(size))
        self.known, self.size = known or size, size
        self.said: list[str] = []

    def meet(self, index: int, *, facts: Mapping[str, Any] | None = None, **options: Any) -> tuple[str, ...]:
        cluster = Cluster(self.size, index, self.hosts[: self.known], "a test")
        return meet(cluster, facts or {"epochs": (2, 3)}, self.said.append, **{"patience": 20, **options})


def outcomes(*calls: Any) -> list[Any]:
    """What each call, in a thread of its own, returns or raises."""

    def one(call: Any) -> Any:
        try:
            return call()
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        return [*pool.map(one, calls)]


def test_hosts_meet_and_leave_their_ports() -> None:
    hosts = Hosts(4)
    assert outcomes(*(lambda i=i: hosts.meet(i) for i in (2, 0, 3, 1))) == [hosts.hosts] * 4
    for host in hosts.hosts:  # which TensorFlow opens next
        socket.create_server(("127.0.0.1", int(host.rpartition(":")[2]))).close()
    assert not hosts.said


def test_host_0_tells_the_addresses_that_nobody_knew() -> None:
    hosts = Hosts(3, known=1)
    found = outcomes(*(lambda i=i: hosts.meet(i) for i in range(3)))
    first = int(hosts.hosts[0].rpartition(":")[2])
    assert found == [tuple(f"127.0.0.1:{first + i}" for i in range(3))] * 3


def test_one_that_is_missing_is_named_while_they_wait_and_at_the_end() -> None:
    hosts = Hosts(3)
    found = outcomes(*(lambda i=i: hosts.meet(i, patience=2, named_after=0.5) for i in (0, 1)))
    missing = f"host 2 ({hosts.hosts[2]})"
    assert found == [f"of the 3 hosts of a test these cannot be reached, or have not come: {missing}"] * 2
    assert hosts.said == [f"waiting for {missing}, of the 3 hosts of a test"]


def test_a_host_0_that_is_missing_is_named() -> None:
    hosts = Hosts(2)
    (found,) = outcomes(lambda: hosts.meet(1, patience=1, named_after=0.3))
    assert f"have not come: host 0 ({hosts.hosts[0]})" in found
    assert hosts.said == [f"waiting for host 0 ({hosts.hosts[0]}), of the 2 hosts of a test"]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"epochs": (2, 4)}, "has epochs [2, 4], and host 0 has [2, 3]"),
        ({"epochs": (2, 3), "xla": "on"}, "has xla on, and host 0 has None"),
    ],
)
def test_one_that_differs_is_named_on_all(theirs: dict[str, Any], message: str) -> None:
    hosts = Hosts(3)
    calls = [lambda: hosts.meet(0), lambda: hosts.meet(1)]
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(outcomes, *calls)
        time.sleep(1)
        (refused,) = outcomes(lambda: hosts.meet(2, facts=theirs))
    assert f"host 2 (127.0.0.1) {message}" in refused
    assert others.result() == [refused] * 2


def test_one_that_comes_after_the_refusal_is_told_too() -> None:
    hosts = Hosts(3)
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(outcomes, lambda: hosts.meet(0), lambda: hosts.meet(2, facts={"epochs": (2, 4)}))
        time.sleep(1)
        late = outcomes(lambda: hosts.meet(1))
    assert "host 2 (127.0.0.1) has epochs [2, 4]" in late[0]
    assert others.result() == late * 2


def test_one_that_dies_while_it_waits_may_come_again() -> None:
    hosts = Hosts(3)
    port = int(hosts.hosts[0].rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcomes, lambda: hosts.meet(0))
        time.sleep(0.5)
        hello = {"index": 1, "port": 1, "facts": {"epochs": [2, 3]}}
        with socket.create_connection(("127.0.0.1", port)) as dead:
            dead.sendall(json.dumps(hello).encode() + b"\n")
            time.sleep(0.5)
        assert outcomes(lambda: hosts.meet(1), lambda: hosts.meet(2)) == [hosts.hosts] * 2
        assert first.result() == [hosts.hosts]


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\n", b"[]\n", b'{"index": 1}\n', b""])
def test_a_stranger_is_let_go(words: bytes) -> None:
    hosts = Hosts(2)
    port = int(hosts.hosts[0].rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcomes, lambda: hosts.meet(0))
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(words)
        assert outcomes(lambda: hosts.meet(1)) == [hosts.hosts]
        assert first.result() == [hosts.hosts]


def test_a_host_that_host_0_cannot_reach_is_named_on_both() -> None:
    hosts = Hosts(2)
    other = Hosts(1).hosts[0]
    there = Cluster(2, 0, (hosts.hosts[0], other), "a test")  # host 0 looks for host 1 where nobody is
    found = outcomes(lambda: meet(there, {"a": 1}, print, patience=10), lambda: hosts.meet(1, facts={"a": 1}))
    assert f"host 1 came to host 0, but cannot be reached at {other}" in found[0]
    assert found[0] == found[1]


def test_two_machines_that_say_they_are_the_same_are_refused() -> None:
    hosts = Hosts(3)
    port = int(hosts.hosts[0].rpartition(":")[2])
    hello = json.dumps({"index": 1, "port": 1, "facts": {"epochs": [2, 3]}}).encode() + b"\n"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcomes, lambda: hosts.meet(0, named_after=1))
        time.sleep(0.5)
        with contextlib.ExitStack() as stack:
            for machine in ("127.0.0.1", "127.0.0.2"):
                address = ("127.0.0.1", port)
                one = stack.enter_context(socket.create_connection(address, source_address=(machine, 0)))
                one.sendall(hello)
                time.sleep(0.5)
            assert "both say that they are host 1" in first.result()[0]
            assert b"refused" in one.recv(1000)


def test_a_port_that_is_taken_is_said() -> None:
    hosts = Hosts(2)
    with socket.create_server(("127.0.0.1", int(hosts.hosts[1].rpartition(":")[2]))):
        (found,) = outcomes(lambda: hosts.meet(1, patience=1))
    assert "of this host, 1, cannot be opened" in found


def test_alone_it_waits_for_nobody() -> None:
    assert Hosts(1).meet(0, patience=0)
    assert os.environ.get("TF_CONFIG") is None
