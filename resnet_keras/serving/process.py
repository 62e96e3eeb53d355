"""A server in a process of its own, for the time of a `with` block."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from resnet_keras.errors import UsageError

START_SECONDS = 180
STOP_SECONDS = 90


@dataclass(frozen=True)
class ServerProcess:
    """A server that is listening."""

    process: "subprocess.Popen[str]"
    rest: str
    """host:port of REST and of the page."""
    grpc: str
    """host:port."""


@contextlib.contextmanager
def server_process(
    flags: Sequence[str], environment: Mapping[str, str] | None = None, cores: Sequence[int] = ()
) -> Iterator[ServerProcess]:
    """Start `resnet-keras serve` with these flags on two free ports, and stop it at the end.

    Args:
        flags: of `resnet-keras serve`, but for the ports.
        environment: variables besides those of this process.
        cores: logical cores that it may use; all that this process may where there are none.

    Raises:
        UsageError: the flags are wrong, or a library of the extra `serve` is not installed.
        RuntimeError: the server did not start for another reason.
    """
    rest, grpc = free_ports()
    command = [sys.executable, "-m", "resnet_keras.cli.main", "serve", "--quiet"]
    ports = ["--rest_api_port", str(rest), "--port", str(grpc)]
    variables = {**os.environ, **(environment or {})}
    process = subprocess.Popen([*command, *ports, *flags], stderr=subprocess.PIPE, text=True, env=variables)
    try:
        if cores:  # before it has a second thread
            os.sched_setaffinity(process.pid, cores)
        _wait_for(process, rest)
        yield ServerProcess(process, f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def free_ports() -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for(process: "subprocess.Popen[str]", port: int) -> None:
    """Models are loaded before the server listens."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            _, output = process.communicate()
            if process.returncode == 2:  # its one line is for the user
                raise UsageError(output.strip().removeprefix("resnet-keras: "))
            raise RuntimeError(f"the server ended with exit code {process.returncode}: {output.strip()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not listen within {START_SECONDS} seconds")
