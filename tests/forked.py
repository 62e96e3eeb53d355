"""Commands in processes of their own, which cost no imports: each is forked off one that has imported everything."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CODE = """
import gc, json, os, signal, sys, traceback

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore Ctrl-C otherwise
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sys.argv = ["resnet-keras"]
from resnet_keras.cli.main import main
from resnet_keras.training import reporters, trainer

gc.freeze()  # the imports, which each fork would search and so copy
gc.set_threshold(20_000, 20, 20)

def run(words, environment, output, reports, folder):
    os.chdir(folder)
    if not reports:
        # The command imports it when it runs, rk.train has it.
        reporters.all_reporters = trainer.all_reporters = lambda quiet: [reporters.ModelFiles]
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, 1), os.dup2(file, 2)
    code = 70
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(words[1], {"__name__": "__main__"})
            code = 0
        else:
            code = main(words)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def wait(child, output):
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(output + ".part", "w") as file:
        file.write(str(code))
    os.rename(output + ".part", output + ".code")
    os._exit(0)


for line in sys.stdin:
    words, environment, output, reports, folder = json.loads(line)
    if not os.fork():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if child:
            print(child, flush=True)
            wait(child, output)
        run(words, environment, output, reports, folder)
"""


@dataclass
class Command:
    """A command that runs."""

    number: int
    """Of its process."""
    output: Path

    @property
    def code_file(self) -> Path:
        return self.output.with_name(f"{self.output.name}.code")

    @property
    def running(self) -> bool:
        return not self.code_file.exists()

    def send(self, number: int) -> None:
        """Send a signal, unless the command is at its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, number)

    def finish(self, seconds: float = 240) -> tuple[int, str]:
        """Exit code, which is minus its number for a signal that killed it, and output."""
        end = time.monotonic() + seconds
        while self.running:
            assert time.monotonic() < end, f"still running after {seconds} s: {self.output.read_text()}"
            time.sleep(0.01)
        return int(self.code_file.read_text()), self.output.read_text()


class Server(contextlib.AbstractContextManager["Server"]):
    """Starts commands."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}  # CUDA outlives no fork
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def start(self, words: list[str], reports: bool = False, folder: Path | None = None, **environment: str) -> Command:
        """Start `resnet-keras WORDS`, or `python -c CODE WORDS`, in a folder, or in this process's.

        Without `reports` the command has no reporters but the one that writes models.
        """
        self.count += 1
        output = self.folder / f"{self.count}.txt"
        output.touch()
        _pipe(self.process.stdin).write(
            json.dumps([words, environment, str(output), reports, str(folder or Path.cwd())]) + "\n"
        )
        _pipe(self.process.stdin).flush()
        return Command(int(_pipe(self.process.stdout).readline()), output)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
