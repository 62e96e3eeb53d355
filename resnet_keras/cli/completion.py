"""`resnet-keras completion`: a script by tyro that completes commands and flags in a shell."""

import contextlib
import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from resnet_keras.cli.benchmark_command import EveryFlag
from resnet_keras.cli.help import shown
from resnet_keras.errors import unknown
from resnet_keras.experiments.experiment_config import ExperimentConfig

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands and flags in a shell.

    bash: resnet-keras completion bash > ~/.local/share/bash-completion/completions/resnet-keras
    """

    shell: Annotated[str, Positional, arg(metavar="SHELL")]
    """bash, zsh or fish."""

    def run(self, commands: Mapping[str, type]) -> None:
        if self.shell not in SHELLS:
            raise unknown("shell", self.shell, SHELLS)
        print_script(self.shell, commands)


def print_script(shell: str, commands: Mapping[str, type]) -> None:
    """Print the script of a shell for the commands by their names."""
    # What stands for flags of these is another dataclass than their own.
    flags: dict[str, type] = {"experiment": ExperimentConfig, "degradation": ExperimentConfig, "benchmark": EveryFlag}
    kinds = [Annotated[shown(flags.get(name, kind)), subcommand(name)] for name, kind in commands.items()]
    parse: Any = tyro.cli  # its own annotations have no Annotated
    with contextlib.suppress(SystemExit):  # tyro ends so when it has printed the script
        parse(
            functools.reduce(operator.or_, kinds),
            args=["--tyro-print-completion", shell],
            prog="resnet-keras",
            config=(OmitArgPrefixes,),
        )
