"""The program `resnet-keras`: from words to a command of `resnet_keras.cli.commands`, and from its end to an exit code.

Exit codes: 0 done; 2 the user's words or files are wrong (one line that says what); 1 a fault of ours (a traceback), or
of `benchmark --against` that something got slower; 130 interrupted. With --json, standard output has one JSON object
and nothing else.
"""

import contextlib
import dataclasses
import errno
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from resnet_keras.cli.bars import bars
from resnet_keras.cli.benchmark_command import BENCHMARKS, Benchmark
from resnet_keras.cli.client_command import Client
from resnet_keras.cli.commands import (
    Degradation,
    Demo,
    Evaluate,
    Experiment,
    Models,
    Rollback,
    Serve,
    Train,
    Verify,
)
from resnet_keras.cli.compare_command import Compare
from resnet_keras.cli.completion import Completion
from resnet_keras.cli.data_command import Data
from resnet_keras.cli.doctor import Doctor
from resnet_keras.cli.explain_command import Explain
from resnet_keras.cli.export_command import Export
from resnet_keras.cli.flags import fill
from resnet_keras.cli.help import width
from resnet_keras.cli.predict_command import Predict
from resnet_keras.cli.publish_command import Publish
from resnet_keras.cli.remote_folders import with_copies
from resnet_keras.cli.tune import Tune, with_run_dir
from resnet_keras.config.recipes import RECIPES, recipe, recipe_summary
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import HostLost, UsageError, reason, unknown
from resnet_keras.experiments.experiment_config import ExperimentConfig
from resnet_keras.experiments.table import EXPERIMENTS, named_experiment
from resnet_keras.progress import progress
from resnet_keras.remote.stores import is_remote
from resnet_keras.remote.working_copy import run_copy
from resnet_keras.serving.options import in_tyro_form
from resnet_keras.startup import import_tensorflow
from resnet_keras.version import __version__

FOLDER_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG}


Command = (
    Demo
    | Train
    | Tune
    | Data
    | Evaluate
    | Compare
    | Predict
    | Explain
    | Export
    | Publish
    | Rollback
    | Verify
    | Serve
    | Client
    | Degradation
    | Experiment
    | Benchmark
    | Models
    | Doctor
    | Completion
)
CHECKED = Train | Tune | Evaluate | Predict | Explain | Export | Publish | Serve | Benchmark
"""Commands of which something can be refused before TensorFlow is imported, which takes seconds."""
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "tune": Tune,
    "data": Data,
    "evaluate": Evaluate,
    "compare": Compare,
    "predict": Predict,
    "explain": Explain,
    "export": Export,
    "publish": Publish,
    "rollback": Rollback,
    "verify": Verify,
    "serve": Serve,
    "client": Client,
    "degradation": Degradation,
    "experiment": Experiment,
    "benchmark": Benchmark,
    "models": Models,
    "doctor": Doctor,
    "completion": Completion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(words)
        if command is not None:
            command = with_copies(command)
            if isinstance(command, CHECKED):
                command.check()
            with bars(_is_quiet(command)):
                if _needs_tensorflow(command):
                    with progress("starting TensorFlow"):
                        _import_tensorflow()
                if isinstance(command, Completion):
                    command.run(COMMANDS)
                elif isinstance(command, Benchmark):
                    return command.run()
                else:
                    command.run()
    except UsageError as error:
        return _refuse(str(error))
    except HostLost as error:
        print(f"resnet-keras: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"resnet-keras: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in FOLDER_ERRORS:
            raise
        return _refuse(f"cannot use {error.filename or 'the output folder'}: {error.strerror}")
    return 0


def _is_quiet(command: Command) -> bool:
    """Whether progress is not to be shown. A server has none: its lines are a log."""
    settings = command.settings if isinstance(command, Experiment) else command
    return isinstance(command, Serve) or getattr(settings, "quiet", False)


def _needs_tensorflow(command: Command) -> bool:
    """Whether to import it first, without its messages. The client's gRPC imports it by itself."""
    if isinstance(command, Client):
        return command.protocol == "grpc"
    return not isinstance(command, Models | Verify | Completion | Benchmark)  # whose processes have it


def _import_tensorflow() -> None:
    try:
        import_tensorflow()
    except ImportError as error:
        raise UsageError(reason(error)) from error
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        # Two ops at a time share the CPU's threads as chance has it, and their sums differ in the last bits: one seed
        # would not give one result. Too late where TensorFlow runs already; then its owner has set it up.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_inter_op_parallelism_threads(1)


def _refuse(message: str) -> int:
    print(f"resnet-keras: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parse(words: list[str]) -> Command | None:
    """The command of the words; None where they are a request for help, which is then printed."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return None
    name, rest = words[0], words[1:]
    if name == "--version":
        print(f"resnet-keras {__version__}")
        return None
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    if name == "train":
        return _parse_train(rest)
    if name == "degradation":
        return _parse_experiment(Degradation, name, rest, f"resnet-keras {name}")
    if name == "benchmark":
        return _parse_benchmark(rest)
    if name == "experiment":
        if rest and not rest[0].startswith("-"):
            return _parse_experiment(Experiment, rest[0], rest[1:], f"resnet-keras experiment {rest[0]}")
        print("usage: resnet-keras experiment NAME [flags]\n")
        print("\n".join(_row(name, experiment.summary, 17) for name, experiment in EXPERIMENTS.items()))
        if not rest or rest[0] not in ("-h", "--help"):
            raise UsageError("the experiment comes first: resnet-keras experiment NAME [flags]")
        return None
    if name == "serve":
        rest = in_tyro_form(rest)
    if name == "tune":
        rest = with_run_dir(rest)
    # TensorFlow Serving's flags have underscores.
    return fill(COMMANDS[name], rest, f"resnet-keras {name}", underscores=name == "serve")


def _parse_experiment(kind: type[Experiment], name: str, words: list[str], program: str) -> Experiment | None:
    experiment = named_experiment(name)
    settings = fill(ExperimentConfig, words, program, experiment.defaults, experiment.summary)
    return settings and kind(name, settings)


def _parse_benchmark(words: list[str]) -> Benchmark | None:
    if words and words[0] in BENCHMARKS:
        return fill(BENCHMARKS[words[0]], words[1:], f"resnet-keras benchmark {words[0]}")
    if words and not words[0].startswith("-"):
        raise unknown("benchmark", words[0], BENCHMARKS)
    print("usage: resnet-keras benchmark WHAT [flags]\n")
    print("\n".join(_row(name, (kind.__doc__ or "").splitlines()[0], 8) for name, kind in BENCHMARKS.items()))
    if not words or words[0] not in ("-h", "--help"):
        raise UsageError("what to measure comes first: resnet-keras benchmark WHAT [flags]")
    return None


def _parse_train(words: list[str]) -> Train | None:
    if words and not words[0].startswith("-"):
        source, rest = words[0], words[1:]
        path = run_copy(source) if is_remote(source) else Path(source).expanduser()
        if source.endswith(".json"):
            # Another run, so not into the folder of the one it was read from.
            config = dataclasses.replace(_read_config(path), run_dir=None)
        elif source not in RECIPES and (path / "config.json").is_file():
            config = dataclasses.replace(_read_config(path / "config.json"), run_dir=source)
        else:
            config = recipe(source)
        rest = [re.sub(r"^--optimizer(?==|$)", "--algorithm", word) for word in rest]
        return fill(Train, rest, f"resnet-keras train {source}", Train(config))
    if words and words[0] not in ("-h", "--help"):
        raise UsageError(f"the recipe comes first: resnet-keras train RECIPE {' '.join(words)}")
    print("usage: resnet-keras train RECIPE [flags]\n")
    text = "RECIPE is a name below, the config.json of a run, which is repeated, or a run folder, which is resumed."
    print(textwrap.fill(text, width()))
    print(f"{textwrap.fill('`resnet-keras train RECIPE --help` lists its flags.', width())}\n")
    print("\n".join(_row(name, recipe_summary(name), 19) for name in RECIPES))
    if not words:
        raise UsageError("train needs a recipe")
    return None


def _read_config(path: Path) -> TrainConfig:
    try:
        return config_from_json(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the config file {path}: {reason(error)}") from error


def _help() -> str:
    lines = [
        "usage: resnet-keras COMMAND [flags]",
        "",
        "ResNets for Keras 3 and TensorFlow.",
        "",
        *(_row(name, (kind.__doc__ or "").splitlines()[0], 12) for name, kind in COMMANDS.items()),
        "",
        textwrap.fill("`resnet-keras COMMAND --help` lists a command's flags.", width()),
    ]
    return "\n".join(lines)


def _row(name: str, text: str, column: int) -> str:
    """A name and what it is from a column on, within those of the terminal."""
    return textwrap.fill(text, width(), initial_indent=f"  {name:{column}}", subsequent_indent=" " * (column + 2))


if __name__ == "__main__":
    sys.exit(main())
