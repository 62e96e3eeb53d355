"""Runs the code blocks of a page in order, in a folder of its own: Python in one process, commands in one each."""

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
from doc_pages import Block, commands_of, lines_of
from forked import Command, Server

from resnet_keras.cli.flags import _flags_of
from resnet_keras.cli.main import COMMANDS
from resnet_keras.config.train import TrainConfig

PORTS = (8500, 8501)
"""Those that the pages name, so that one page at a time has a server."""
NEEDS_BASH = re.compile(r"[$`*?~;&|<>()]")
WHOLE = re.compile(r"(for|while|if|cd|export|source)\b|\w+=")
"""Begins a line after which the other lines of its block mean something else."""
DRIVER = """
import json, os, sys, traceback

answers, names = os.fdopen(int(sys.argv[1]), "w"), {"__name__": "__main__"}
sys.argv = [""]
for line in sys.stdin:
    where, number, code = json.loads(line)
    try:
        exec(compile("\\n" * (number - 1) + code, where, "exec"), names)
        said = ""
    except BaseException:
        said = traceback.format_exc()
    sys.stdout.flush()
    print(json.dumps(said), file=answers, flush=True)
"""


class PageRun(contextlib.AbstractContextManager["PageRun"]):
    """A page's folder and processes."""

    def __init__(self, folder: Path, commands: Server, lock: Path) -> None:
        """Its processes are started by `commands`; a file is locked while a server runs."""
        self.folder, self._commands = folder, commands
        self._python: subprocess.Popen[str] | None = None
        self._server: Command | None = None
        (folder / ".curlrc").write_text("fail\n")  # an error of HTTP is one of curl then
        self._lock = os.open(lock, os.O_CREAT | os.O_RDWR)
        self._environment: dict[str, Any] = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "HOME": str(folder),
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # its list of fonts takes seconds to make
            "no_proxy": "localhost,127.0.0.1",
        }

    def __exit__(self, *_: object) -> None:
        self._stop_server()
        os.close(self._lock)
        if self._python:
            self._python.kill()
            self._python.communicate()
            self._answers.close()

    def run(self, block: Block) -> None:
        """Run a block, unless it is marked. Raises AssertionError, with what was said, where it fails."""
        if block.language in ("sh", "bash", "python"):
            if block.setup:
                self._exec(block, block.setup)
            if not block.skipped:
                (self._exec if block.language == "python" else self._shell)(block, block.code)

    def _exec(self, block: Block, code: str) -> None:
        for name, value in block.arguments.items():
            code, count = re.subn(rf"\b{name}=[^,)\n]+", f"{name}={value}", code)
            assert count or code == block.setup, f"{block}: there is no {name}= in it"
        if self._python is None:
            reading, writing = os.pipe()
            self._answers = os.fdopen(reading)
            self._python = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(writing)],
                stdin=subprocess.PIPE,
                text=True,
                cwd=self.folder,
                env=self._environment,
                pass_fds=[writing],
            )
            os.close(writing)
        assert self._python.stdin is not None
        self._python.stdin.write(json.dumps([str(block.page), block.line, code]) + "\n")
        self._python.stdin.flush()
        answer = self._answers.readline()
        said = json.loads(answer) if answer else f"Python has ended with {self._python.wait()}"
        assert not said, f"{block}:\n{said}"

    def _shell(self, block: Block, code: str) -> None:
        lines = lines_of(code)
        if any(map(WHOLE.match, lines)):
            self._bash(block, code)
            return
        for line in lines:
            if line.startswith("resnet-keras ") and not NEEDS_BASH.search(re.sub(r"'[^']*'", "", line)):
                (words,) = commands_of(line)
                self._command(block, [*words[1:], *_added(block, words[1])])
            else:
                self._bash(block, line)

    def _command(self, block: Block, words: list[str]) -> None:
        if words[0] == "serve":
            self._serve(block, words)
            return
        code, said = self._commands.start(words, reports=True, folder=self.folder, **self._environment).finish()
        assert code == 0, f"{block}: resnet-keras {shlex.join(words)} ended with {code}:\n{said}"

    def _serve(self, block: Block, words: list[str]) -> None:
        self._stop_server()
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        assert not any(map(_answers, PORTS)), f"{block}: another program listens at one of {PORTS}"
        self._server = self._commands.start(words, folder=self.folder, **self._environment)
        until = time.monotonic() + 60
        while not _answers(PORTS[1]):
            assert self._server.running, f"{block}: the server has ended:\n{self._server.output.read_text()}"
            assert time.monotonic() < until, f"{block}: no server at port {PORTS[1]} after a minute"
            time.sleep(0.1)

    def _stop_server(self) -> None:
        if self._server:
            self._server.send(signal.SIGTERM)
            self._server.finish()
            self._server = None

    def _bash(self, block: Block, code: str) -> None:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", code],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}: {code}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"


def _added(block: Block, command: str) -> list[str]:
    """The flags that a block's note adds to one of its commands, of those that the command has."""
    known = set(_flags_of(TrainConfig if command == "train" else COMMANDS[command])) if command in COMMANDS else set()
    added, taken = [], False
    for word in block.flags:
        taken = word in known if word.startswith("--") else taken
        added += [word] if taken else []
    return added


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
