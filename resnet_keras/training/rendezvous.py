"""Hosts find one another before TensorFlow connects them: who is missing, and who is not like the others, is named.

TensorFlow itself waits without a word for a host that is not there, and where one has another config it fails in the
middle of a step, or goes on. So host 0 listens at its own port, the others come and say what they are, and host 0 looks
whether it reaches each at its own. Then all close their ports, and TensorFlow opens them.
"""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_keras.errors import UsageError, reason
from resnet_keras.training.cluster import Cluster

PATIENCE = 300.0
"""Seconds that hosts wait for one another: what starts them may start them one after another."""
NAMED_AFTER = 20.0
"""Seconds after which those that are missing are named."""
PAUSE = 0.2
ANSWERS_WITHIN = 5.0
LONGEST = 2**20
"""Bytes of a line: more is no host of ours."""


def meet(
    cluster: Cluster,
    facts: Mapping[str, Any],
    say: Callable[[str], None],
    *,
    patience: float = PATIENCE,
    named_after: float = NAMED_AFTER,
) -> tuple[str, ...]:
    """Wait until all hosts of a cluster are there, and return their addresses, `HOST:PORT`, in order.

    Args:
        cluster: as `find_cluster` finds it.
        facts: of this host, by name; they must be the same on all, such as versions and the config. JSON.
        say: gets a line that names the hosts that are missing.
        patience: seconds to wait.
        named_after: seconds after which they are named; so long host 0 also refuses those that come late.

    Raises:
        UsageError: on every host, for one that does not come, that cannot be reached, or that has other facts.
    """
    if cluster.size == 1:
        return cluster.hosts
    now = time.monotonic()
    with _listener(cluster) as listener:
        # As JSON has them, so that a tuple is equal to the list that arrives.
        plain = json.loads(json.dumps(facts))
        waiting = _Waiting(cluster, plain, say, listener, named_after, now + named_after, now + patience)
        return waiting.gather() if cluster.index == 0 else waiting.come()


@dataclass
class _Came:
    """A host that is there, as host 0 has it."""

    connection: socket.socket
    machine: str
    port: int


@dataclass
class _Waiting:
    """A host that waits for the others: until when, and for whom."""

    cluster: Cluster
    facts: Mapping[str, Any]
    say: Callable[[str], None]
    listener: socket.socket
    named_after: float
    named_at: float
    ends_at: float

    def gather(self) -> tuple[str, ...]:
        """Host 0's part."""
        came: dict[int, _Came] = {}
        try:
            while not self._are_there(came):
                self._wait_for([self._words(i) for i in range(1, self.cluster.size) if i not in came])
                if (arrived := _arrival(self.listener)) is not None:
                    self._take(*arrived, came)
            hosts = [self.cluster.hosts[0]]
            for index in range(1, self.cluster.size):
                own = f"{came[index].machine}:{came[index].port}"
                hosts.append(own if len(self.cluster.hosts) == 1 else self.cluster.hosts[index])
                _reach(index, hosts[-1])
        except UsageError as error:
            _tell_all(came, {"refused": str(error)})
            self._refuse_late(set(came), str(error))
            raise
        _tell_all(came, {"hosts": hosts})
        return tuple(hosts)

    def _refuse_late(self, told: set[int], why: str) -> None:
        """Tell those that come after a refusal, too: they would wait for a host 0 that has ended."""
        until = min(time.monotonic() + self.named_after, self.ends_at)
        while len(told) < self.cluster.size - 1 and time.monotonic() < until:
            if (arrived := _arrival(self.listener)) is not None:
                connection, hello = arrived
                with contextlib.suppress(OSError), connection:
                    _send(connection, {"refused": why})
                told.add(hello["index"])

    def _are_there(self, came: dict[int, _Came]) -> bool:
        """Whether all others are. One that ended while it waited is not; another in its place may come."""
        for index in [i for i, other in came.items() if _is_closed(other.connection)]:
            came.pop(index).connection.close()
        return len(came) == self.cluster.size - 1

    def _take(self, connection: socket.socket, hello: Mapping[str, Any], came: dict[int, _Came]) -> None:
        index, machine = hello["index"], _machine(connection)
        before = came.pop(index, None)
        if before is not None:
            before.connection.close()
        came[index] = _Came(connection, machine, hello["port"])
        if before is not None and before.machine != machine:
            raise UsageError(
                f"{before.machine} and {machine} both say that they are host {index} of {self.cluster.source}; give "
                "each its own index"
            )
        theirs = hello["facts"]
        for name in [*self.facts, *theirs]:
            if (one := self.facts.get(name)) != (two := theirs.get(name)):
                raise UsageError(
                    f"host {index} ({machine}) has {name} {two}, and host 0 has {one}; give all hosts the same package "
                    "and the same command"
                )

    def come(self) -> tuple[str, ...]:
        """The part of every other host."""
        hello = {"index": self.cluster.index, "port": self.listener.getsockname()[1], "facts": self.facts}
        while True:
            self._wait_for([self._words(0)])
            with contextlib.suppress(OSError), _connect(self.cluster.hosts[0]) as connection:
                _send(connection, hello)
                # Host 0 names those that are missing, and ends the waiting: at the latest, after its own patience.
                connection.settimeout(max(1.0, self.ends_at - time.monotonic()) + 2 * ANSWERS_WITHIN)
                answer = _received(connection)
                if answer is not None and "hosts" in answer:
                    return tuple(answer["hosts"])
                if answer is not None:
                    raise UsageError(str(answer["refused"]))
            time.sleep(PAUSE)

    def _wait_for(self, missing: list[str]) -> None:
        """Name those that are missing, once, or raise `UsageError` where they have not come."""
        now = time.monotonic()
        if now > self.ends_at:
            raise UsageError(
                f"of the {self.cluster.size} hosts of {self.cluster.source} these cannot be reached, or have not come: "
                f"{', '.join(missing)}"
            )
        if now > self.named_at:
            self.named_at = self.ends_at + 1
            self.say(f"waiting for {', '.join(missing)}, of the {self.cluster.size} hosts of {self.cluster.source}")

    def _words(self, index: int) -> str:
        hosts = self.cluster.hosts
        return f"host {index} ({hosts[index]})" if index < len(hosts) else f"host {index}"


def _listener(cluster: Cluster) -> socket.socket:
    """This host's own port, open."""
    known = cluster.index < len(cluster.hosts)
    port = _address(cluster.hosts[cluster.index])[1] if known else _address(cluster.hosts[0])[1] + cluster.index
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise UsageError(f"port {port} of this host, {cluster.index}, cannot be opened: {reason(error)}") from error


def _arrival(listener: socket.socket) -> tuple[socket.socket, Mapping[str, Any]] | None:
    """Who came, and what it said; None within `PAUSE`, or for one that is no host of ours."""
    if not select.select([listener], [], [], PAUSE)[0]:
        return None
    connection, _ = listener.accept()
    connection.settimeout(ANSWERS_WITHIN)
    with contextlib.suppress(OSError):
        hello = _received(connection)
        if hello is not None and hello.keys() >= {"index", "port", "facts"}:
            return connection, hello
    connection.close()
    return None


def _reach(index: int, host: str) -> None:
    """Raise `UsageError` where a host that came is not to be reached at its own address."""
    try:
        _connect(host).close()
    except OSError as error:
        raise UsageError(
            f"host {index} came to host 0, but cannot be reached at {host}: {reason(error)}; open that port between "
            "the hosts"
        ) from error


def _connect(host: str) -> socket.socket:
    return socket.create_connection(_address(host), timeout=ANSWERS_WITHIN)


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return name.strip("[]"), int(port)


def _machine(connection: socket.socket) -> str:
    """The address of the other end, as it stands before a port."""
    name = connection.getpeername()[0].removeprefix("::ffff:")
    return f"[{name}]" if ":" in name else name


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other end is gone: it says nothing while it waits, so that what can be read is the end."""
    return bool(select.select([connection], [], [], 0)[0])


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _received(connection: socket.socket) -> Mapping[str, Any] | None:
    """A message, None where the connection ends without one."""
    with connection.makefile("rb") as lines:
        try:
            message = json.loads(lines.readline(LONGEST))
        except ValueError:
            return None
    return message if isinstance(message, dict) else None


def _tell_all(came: Mapping[int, _Came], message: Mapping[str, Any]) -> None:
    for other in came.values():
        with contextlib.suppress(OSError), other.connection as connection:
            _send(connection, message)
