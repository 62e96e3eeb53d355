"""`python -m tuning SPACE`: a search, its report, and the recipe it found."""

import dataclasses
import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_keras.cli.flags import fill
from resnet_keras.errors import UsageError, reason, require, unknown
from resnet_keras.startup import import_tensorflow

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ROLES = ("alone", "chief", "worker")


@dataclass(frozen=True)
class Flags:
    """Search for a good recipe. The same command goes on with a search that was stopped."""

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
    """Share of the training images on which trials are compared. The test split is looked at once, at the end."""
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
    output: str | None = None
    """The folder of the search; searches/SPACE when left out."""
    seed: int = 0
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
    """alone; chief, which hands out trials; worker, which runs them. All see the same --output."""
    id: str = "0"
    """Of a worker: each has its own."""
    address: str = "127.0.0.1:8299"
    """HOST:PORT of the chief."""
    quiet: bool = False
    """Only the result."""
    json: bool = False
    """One JSON object on standard output."""


def main(words: list[str] | None = None) -> int:
    """Run a search; returns the exit code."""
    try:
        flags = fill(Flags, sys.argv[1:] if words is None else words, "python -m tuning")
        if flags is None:
            return 0
        _check(flags)
        import_tensorflow()
        _search(flags)
    except UsageError as error:
        print(f"tuning: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tuning: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"tuning: cannot use {error.filename or 'the folder'}: {reason(error)}", file=sys.stderr)
        return 2
    return 0


def _check(flags: Flags) -> None:
    if flags.role not in ROLES:
        raise unknown("role", flags.role, ROLES)
    for name in ("trials", "epochs", "max_parameters"):
        value = getattr(flags, name)
        require(value is None or value >= 1, name, "at least 1", value)
    require(flags.retrain >= 0, "retrain", "at least 0", flags.retrain)
    if flags.role != "worker" and flags.trials is None and flags.budget is None and flags.tuner != "grid":
        raise UsageError("give --trials or --budget, or the search would never end")
    seconds_of(flags.budget)


def seconds_of(budget: str | None) -> float | None:
    """The seconds of 90s, 5m, 8h or 2d."""
    if budget is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", budget)
    if not found or not float(found[1]):
        raise UsageError(f"budget must be a time such as 90s, 5m, 8h or 2d, not {budget!r}")
    return float(found[1]) * SECONDS[found[2]]


def _search(flags: Flags) -> None:
    from resnet_keras.files import json_text
    from tuning.costs import Bounds
    from tuning.results import Results
    from tuning.runs import OutOfTime
    from tuning.search import Search, Settings, be, check_folder, claim_folder, terminated_as_interrupted
    from tuning.spaces import find_space

    started = time.monotonic()
    name, space = find_space(flags.space)
    given = {key: getattr(flags, key) for key in ("data", "data_dir", "strategy", "xla", "precision")}
    shared = [field.name for field in dataclasses.fields(Settings) if hasattr(flags, field.name)]
    settings = Settings(
        **{key: getattr(flags, key) for key in shared},
        changes={key: value for key, value in given.items() if value is not None},
        bounds=Bounds(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Bounds)}),
    )
    folder = Path(flags.output or Path("searches", name)).expanduser()
    goes_on = check_folder(folder, settings)
    if flags.role != "alone":
        be(flags.role, flags.id, flags.address)
    budget = seconds_of(flags.budget)
    deadline = None if budget is None else started + budget
    say = _nothing if flags.quiet or flags.json else _print
    search = Search(space, settings, folder, trials=flags.trials, deadline=deadline, role=flags.role, say=say)
    with terminated_as_interrupted():
        if flags.role == "worker":
            search.search()
            return
        claim_folder(folder, settings)
        say(f"{'going on with' if goes_on else 'searching in'} {folder}")
        results = Results(search, flags.retrain)
        try:
            results.run_baseline()
            search.last_moment = partial(results.last_moment, deadline)
            search.set_deadline()
            if flags.role == "chief":
                search.serve(flags.address)
            else:
                search.search()
        except OutOfTime:
            say("the time is up")
        except KeyboardInterrupt:
            results.write()
            raise
        found = results.finish()
    lines = [f"{key.replace('_', ' '):22} {value}" for key, value in found.items()]
    print(json_text(found) if flags.json else "\n".join(lines))


def _print(line: str) -> None:
    print(line, flush=True)


def _nothing(_: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
