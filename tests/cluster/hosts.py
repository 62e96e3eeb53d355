"""Hosts in namespaces of this machine: each with a network, a name, processes and files of its own.

A host is what a container is: a network namespace on a bridge, and for each command a PID, UTS and mount namespace, in
which all files are read-only but for an empty /tmp and the folder `SHARED`, which all hosts see. It takes root.
"""

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wire import Wire

SHARED = "/mnt/shared"
"""Where each host sees the folder that all share."""
DOMAIN = "default.svc.cluster.local"
CHECKOUT = shlex.quote(str(Path(__file__).parents[2]))
# /mnt first, as what is bound there may lie in /tmp, and so may the checkout.
SETUP = f"""
set -e
mount -t tmpfs tmpfs /mnt
mkdir {SHARED}
mount --rbind "$1" {SHARED}
mkdir /mnt/checkout
mount --rbind {CHECKOUT} /mnt/checkout
mount --bind "$2" /etc/hosts
echo "$3" > /proc/sys/kernel/hostname
mount -t tmpfs -o size="$4" tmpfs /tmp
case {CHECKOUT} in /tmp/*)
    mkdir -p {CHECKOUT}
    mount --rbind /mnt/checkout {CHECKOUT}
    mount -o remount,bind,ro {CHECKOUT} ;;
esac
mount -o remount,bind,ro /
shift 4
cd /tmp
exec "$@"
"""


def why_not() -> str | None:
    """Why this machine can have no such hosts; None where it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces take root"
    for tool in ("ip", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"there is no {tool}, of iproute2 or util-linux"
    name = f"rk{os.getpid()}"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True)
    if made.returncode:
        return f"no bridge can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "link", "del", name], check=True)
    return None


@dataclass
class Command:
    """A command that runs on a host."""

    process: subprocess.Popen[bytes]
    output: Path
    killed: bool = False
    """By `kill`; what the process that waits for it then ends with is no code of the command's."""

    @property
    def number(self) -> int:
        """Of the process that is number 1 on the host, as this machine counts them."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            if found := path.read_text().split():
                return int(found[0])
        return 0

    @property
    def said(self) -> str:
        return self.output.read_text("utf-8", errors="replace")

    @property
    def last_line(self) -> str:
        """Of what it printed, without the lines of a progress bar."""
        lines = [line.strip() for line in re.split(r"[\r\n]+", self.said) if line.strip()]
        return lines[-1] if lines else ""

    def send(self, number: int) -> None:
        """Send a signal to the process, unless it is at its end."""
        if process := self.number:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """Kill -9 the process, and with it all others of its PID namespace."""
        self.killed = True
        self.send(signal.SIGKILL)

    def wait_for(self, words: str, seconds: float) -> None:
        """Return when it has printed something. Fails where it does not, or ends before."""
        end = time.monotonic() + seconds
        while words not in self.said:
            assert self.process.poll() is None, f"ended without {words!r}: {self.said}"
            assert time.monotonic() < end, f"no {words!r} after {seconds} s: {self.said}"
            time.sleep(0.05)

    def finish(self, seconds: float) -> int:
        """The exit code. Fails where it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:.0f} s: {self.said}") from None


class Hosts(contextlib.AbstractContextManager["Hosts"]):
    """Hosts on one network.

    Args:
        names: such as train-0, of the headless service `service`.
        folder: for their files on this machine, such as what their commands print.
        service: as Kubernetes names it.
        wires: True for networks that can lose and delay packets, by `wires`.
    """

    def __init__(self, names: Sequence[str], folder: Path, service: str = "train", wires: bool = False) -> None:
        self.names, self.folder, self.shared = list(names), folder, folder / "shared"
        self.shared.mkdir(parents=True, exist_ok=True)
        self._id = f"rk{os.getpid() % 100000}{random.randrange(36**2):03x}"  # names of devices have 15 letters at most
        self._net = f"10.{random.randrange(64, 192)}.{random.randrange(256)}"
        self._stack = contextlib.ExitStack()
        self.commands: list[Command] = []
        self.wires: list[Wire] = []
        self._with_wires = wires
        # The names that the kubelet and the cluster's DNS, by its search path, know.
        known = [
            f"{self.address(i)} {name}.{service}.{DOMAIN} {name}.{service} {name}\n"
            for i, name in enumerate(self.names)
        ]
        self._table = folder / "hosts"
        self._table.write_text("127.0.0.1 localhost\n" + "".join(known))

    def address(self, index: int) -> str:
        return f"{self._net}.{index + 10}"

    def __enter__(self) -> "Hosts":
        with contextlib.ExitStack() as stack:
            bridge = f"{self._id}b"
            self._make(stack, f"link add {bridge} type bridge", f"link del {bridge}")
            _ip(f"link set {bridge} up")
            for i in range(len(self.names)):
                namespace, port = f"{self._id}n{i}", self._port(i)
                self._make(stack, f"netns add {namespace}", f"netns del {namespace}")
                if self._with_wires:
                    wire = stack.enter_context(Wire(port, f"{self._id}t{i}"))
                    self.wires.append(wire)
                else:
                    self._make(stack, f"link add {port} type veth peer name {self._id}t{i}", f"link del {port}")
                _ip(f"link set {self._id}t{i} netns {namespace} name eth0")
                _ip(f"link set {port} master {bridge} up")
                _ip(f"-n {namespace} addr add {self.address(i)}/24 dev eth0")
                for device in ("eth0", "lo"):
                    _ip(f"-n {namespace} link set {device} up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        self._stack.close()

    def _make(self, stack: contextlib.ExitStack, make: str, undo: str) -> None:
        _ip(make)
        stack.callback(subprocess.run, ["ip", *undo.split()], capture_output=True)

    def _port(self, index: int) -> str:
        return f"{self._id}p{index}"

    def start(
        self, index: int, words: Sequence[str], environment: Mapping[str, str] | None = None, tmp: str = "64m"
    ) -> Command:
        """Start a command on a host, with `tmp` bytes in its /tmp."""
        output = self.folder / f"{len(self.commands)}-{self.names[index]}.txt"
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        setup = ["sh", "-c", SETUP, "sh", str(self.shared), str(self._table), self.names[index], tmp]
        own = {"HOME": "/tmp", "HOSTNAME": self.names[index], **(environment or {})}
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self._id}n{index}", *unshare, *setup, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **own},
            )
        self.commands.append(Command(process, output))
        return self.commands[-1]

    def cut(self, index: int) -> None:
        """Pull the plug: packets to and from the host are lost, and no side notices."""
        _ip(f"link set {self._port(index)} down")

    def mend(self, index: int) -> None:
        _ip(f"link set {self._port(index)} up")

    def sent(self, index: int) -> int:
        """Bytes that the host has sent, with all headers."""
        return int(Path(f"/sys/class/net/{self._port(index)}/statistics/rx_bytes").read_text())

    def kill_all(self) -> None:
        for command in self.commands:
            if command.process.poll() is None:
                command.kill()
                command.process.kill()
                command.process.wait()


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {words}: {done.stderr.strip()}"
