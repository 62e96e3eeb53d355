"""`resnet-keras tune`: its flags. The searches are in `resnet_keras.tuning`, which is imported when one runs."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from resnet_keras.config.duration import seconds_of
from resnet_keras.errors import UsageError, reason, require, unknown
from resnet_keras.files import json_text

ROLES = ("alone", "chief", "worker")
PACKAGE = "resnet_keras.tuning"
CONFIG_FLAGS = ("tuner", "objective", "epochs", "validation", "seed", "measure_latency")
BOUND_FLAGS = ("max_parameters", "max_macs", "max_memory_gb", "max_latency_ms")
CHANGE_FLAGS = ("data", "data_dir", "strategy", "xla", "precision")


@dataclass(frozen=True)
class Tune:
    """Search for a good recipe. The same command resumes a search that was stopped."""

    space: Annotated[str, Positional, arg(metavar="SPACE")]
    """digits, cifar10, folder, imagenet, or a file with a function space(hp) that returns a TrainConfig."""
    tuner: str = "random"
    """random, bayesian, hyperband or grid."""
    trials: int | None = None
    """At most so many; give this or --budget."""
    epochs: int | None = None
    """Of a full trial; the space's own when left out."""
    objective: str = "val_accuracy"
    """val_accuracy or val_loss."""
    budget: str | None = None
    """How long, with the test of the best at the end: 90s, 5m, 8h or 2d."""
    validation: float = 0.1
    """Share of the training images on which trials are compared. The test split is used once, at the end."""
    retrain: int = 1
    """Seeds with which the best config is trained in full and tested at the end; 0 for none."""
    max_parameters: int | None = None
    """Trials with more trainable parameters are refused before they are built."""
    max_macs: float | None = None
    """Those with more multiply-adds an image."""
    max_memory_gb: float | None = None
    """Those that would take more memory to train, by an estimate."""
    max_latency_ms: float | None = None
    """Those whose exported model takes longer for an image, on this machine."""
    measure_latency: bool = False
    """Measure that of each trial, for the report."""
    run_dir: str | None = None
    """The folder of the search, made or resumed; searches/SPACE when left out."""
    seed: int = 0
    """Random seed of the trials that are proposed."""
    data: str | None = None
    """Other data than the space's: a TensorFlow Datasets name or a folder."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    strategy: str | None = None
    """auto, none, mirrored, multiworker or tpu."""
    xla: str | None = None
    """auto, on or off."""
    precision: str | None = None
    """float32, mixed_bfloat16 or mixed_float16."""
    role: str = "alone"
    """alone; chief, which hands out trials; worker, which runs them. All have the same --run-dir."""
    id: str = "0"
    """Of a worker: each has its own."""
    address: str = "127.0.0.1:8299"
    """HOST:PORT of the chief."""
    quiet: bool = False
    """No progress, neither the lines on standard output nor the bars on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def check(self) -> None:
        """Raise `UsageError` for flags that are wrong by themselves."""
        if self.role not in ROLES:
            raise unknown("role", self.role, ROLES)
        for name in ("trials", "epochs", "max_parameters"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "at least 1", value)
        require(self.retrain >= 0, "retrain", "at least 0", self.retrain)
        if self.role != "worker" and self.trials is None and self.budget is None and self.tuner != "grid":
            raise UsageError("give --trials or --budget, or the search would never end")
        seconds_of(self.budget)

    def run(self) -> None:
        silent = self.quiet or self.json
        try:
            summary = tuning_module("start").run_search(
                self.space,
                self.run_dir,
                config={name: getattr(self, name) for name in CONFIG_FLAGS},
                bounds={name: getattr(self, name) for name in BOUND_FLAGS},
                changes={name: value for name in CHANGE_FLAGS if (value := getattr(self, name)) is not None},
                trials=self.trials,
                retrain=self.retrain,
                seconds=seconds_of(self.budget),
                role=self.role,
                worker=self.id,
                address=self.address,
                log=_print_nothing if silent else _print_line,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command resumes the search") from None
        except BrokenPipeError:  # who reads what is printed has gone
            raise
        except OSError as error:
            raise UsageError(f"cannot use {error.filename or 'the folder'}: {reason(error)}") from error
        if summary is None:
            return
        if self.json:
            print(json_text(summary))
        else:
            print("\n".join(f"{name.replace('_', ' '):22} {value}" for name, value in summary.items()))
        if summary["failed"] == summary["trials"] > 0:
            raise UsageError(f"all {summary['trials']} trials failed, the report says why: {summary['report']}")


def with_run_dir(words: Sequence[str]) -> list[str]:
    """The flags with --run-dir for its old name, --output. Raises `UsageError` where both are given."""
    names = [word.partition("=")[0].replace("_", "-") for word in words]
    if "--output" in names and "--run-dir" in names:
        raise UsageError("--output is the old name of --run-dir; give --run-dir alone")
    return [
        f"--run-dir{word.removeprefix('--output')}" if name == "--output" else word
        for name, word in zip(names, words, strict=True)
    ]


def tuning_module(name: str) -> Any:
    """A module of `resnet_keras.tuning`; of the folder tuning/ where the package runs from an uninstalled checkout."""
    if importlib.util.find_spec(PACKAGE) is None:
        folder = Path(__file__).parents[2] / "tuning"
        spec = importlib.util.spec_from_file_location(PACKAGE, folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _print_line(line: str) -> None:
    print(line, flush=True)


def _print_nothing(_: str) -> None:
    pass
