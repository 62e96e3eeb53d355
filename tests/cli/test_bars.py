"""Progress bars on a terminal: a pseudo-terminal is opened, and what is written to it is read."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from resnet_keras.cli import bars as bars_module
from resnet_keras.cli.bars import bars
from resnet_keras.progress import counted, progress

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.argv = ["bin/resnet-keras"]  # which does not import TensorFlow before it is needed
from resnet_keras.cli import bars
from resnet_keras.progress import progress
bars.SHOWN_AFTER = 0.0
try:
    with bars.bars(quiet=False), progress("reading images", 1000, "images") as task:
        for i in range(200):
            task.add()
            time.sleep(0.02)
            if i == 5:
                print("a line", file=sys.stderr)
            if i == 20:
                print("half", flush=True)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
"""


def lines_of(text: str) -> list[str]:
    """Everything that stood in a line at some time, without colours and movements of the cursor."""
    plain = re.sub(r"\x1b\[[\d;?]*[A-JL-Za-z]", "", text)
    return [line.rstrip() for line in re.split(r"[\r\n]+|\x1b\[2K", plain) if line]


def read_until(master: int, enough: Callable[[str], bool] = lambda text: False) -> str:
    """What is written to a terminal, until it is enough, or to the end."""
    text = ""
    with contextlib.suppress(OSError):  # the program has ended
        while not enough(text):
            text += os.read(master, 65536).decode("utf-8", "replace")
    return text


def test_ctrl_c_leaves_the_terminal_as_it_was() -> None:
    master, slave = terminal_of(80)
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        text = read_until(master, lambda text: "half" in text and " left" in text)
        process.send_signal(signal.SIGINT)
        text += read_until(master)
    os.close(master)
    assert process.returncode == 130
    shown = lines_of(text)
    assert any(re.fullmatch(r"reading images ━+ +\d+ %  \d+ images/s  0:\d\d left", line) for line in shown), shown
    assert "a line" in shown
    assert "half" in shown
    assert shown[-1] == "interrupted"
    assert "\x1b[?25l" not in text, "the cursor is hidden"


def terminal_of(columns: int) -> tuple[int, int]:
    """A pseudo-terminal: its own end, and a program's."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return master, slave


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_line_is_no_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_terminal(monkeypatch, columns) as written, bars(quiet=False), progress("epoch  3/10", 10, None) as task:
        for i in range(10):
            time.sleep(0.02)
            task.to(i, ["loss 0.1234", "accuracy 0.9876", "1,234 images/s", "1:02:03 left"])
        time.sleep(0.3)
    shown = [line for line in lines_of(written()) if "epoch" in line]
    assert shown
    assert max(map(len, shown)) < columns
    assert ("1:02:03 left" in shown[-1]) == (columns > 20)
    assert ("loss 0.1234" in shown[-1]) == (columns == 80)


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for unwanted in (True, False):
        monkeypatch.setenv("NO_COLOR", "1" if unwanted else "")
        with on_terminal(monkeypatch, 80) as written, bars(quiet=False):
            for _ in counted(range(3), "reading images", 3):
                time.sleep(0.2)
        assert "reading images" in written()
        assert ("\x1b[3" in written()) != unwanted


def test_short_tasks_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_terminal(monkeypatch, 80, shown_after=1.0) as written, bars(quiet=False):
        for _ in counted(range(3), "reading images", 3):
            time.sleep(0.1)
    assert "reading" not in written()


@pytest.mark.parametrize("reason", ["quiet", "dumb", "worker", "pipe"])
def test_where_nothing_is_shown(
    reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = {"worker": ["a:1", "b:1"]}
    if reason == "worker":
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}}))
    with on_terminal(monkeypatch, 80) if reason != "pipe" else contextlib.nullcontext(lambda: "") as written:
        if reason == "dumb":
            monkeypatch.setenv("TERM", "dumb")
        with bars(quiet=reason == "quiet"):
            for _ in counted(range(3), "reading images", 3):
                time.sleep(0.1)
    assert written() == ""
    assert capfd.readouterr() == ("", "")


def test_the_first_worker_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"worker": ["a:1", "b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    with on_terminal(monkeypatch, 80) as written, bars(quiet=False):
        for _ in counted(range(3), "reading images", 3):
            time.sleep(0.2)
    assert "reading images" in written()


@contextlib.contextmanager
def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, shown_after: float = 0.0) -> Iterator[Callable[[], str]]:
    """Within it, standard error is a terminal; what is written to it can be read, then and afterwards."""
    master, slave = terminal_of(columns)
    os.set_blocking(master, False)
    text: list[str] = []

    def written() -> str:
        with contextlib.suppress(OSError):
            while True:
                text.append(os.read(master, 65536).decode())
        return "".join(text)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(bars_module, "SHOWN_AFTER", shown_after)
    with os.fdopen(slave, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield written
        written()
    os.close(master)
