"""A search: trials that an oracle of KerasTuner's proposes, each a run of its own, in a folder that outlives it."""

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine import base_tuner
from keras_tuner.errors import FailedTrialError
from keras_tuner.src import config as keras_tuner_config
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief
from keras_tuner.src.engine import conditions

from resnet_keras.config.run_folder import LOCK
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.splits import Source
from resnet_keras.errors import UsageError, unknown
from resnet_keras.files import read_json, write_text
from resnet_keras.progress import Progress, progress
from resnet_keras.training.setup import source_of

from .costs import Bounds, Cost, count, latency_of, refusal
from .oracles import TUNERS, Heartbeat, Status, make_oracle
from .runs import CONFIG, OutOfTime, RunError, run
from .spaces import Space, draw

keras_tuner_config.DEBUG = False  # it would print a traceback for each trial that fails
OBJECTIVES = {"val_accuracy": "max", "val_loss": "min"}
SETTINGS = "search.json"
FAILURE = "failure.txt"
IDLE_SECONDS = 1.0
LINGER_SECONDS = 5.0
"""How long a chief still answers after its last trial, so that every worker learns that the search is over."""


@dataclass(frozen=True)
class SearchConfig:
    """What a search looks for; a folder holds one search, and another one's flags are refused there."""

    space: str
    tuner: str = "random"
    objective: str = "val_accuracy"
    epochs: int | None = None
    """Of a full trial; the space's own when None."""
    validation: float = 0.1
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the config that are the same in every trial: data, strategy, precision, ..."""
    bounds: Bounds = field(default_factory=Bounds)
    measure_latency: bool = False

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise unknown("objective", self.objective, OBJECTIVES)
        if self.tuner not in TUNERS:
            raise unknown("tuner", self.tuner, TUNERS)
        if not 0 < self.validation < 1:
            raise UsageError(f"validation must be a share above 0 and below 1, not {self.validation}")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"epochs must be at least 1, not {self.epochs}")


def check_folder(folder: Path, settings: SearchConfig) -> bool:
    """Whether a folder holds this very search, to be resumed. Raises `UsageError` where it holds another one."""
    path, now = folder / SETTINGS, json.loads(_settings_text(settings))
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(child.name != LOCK for child in folder.iterdir())):
            raise UsageError(f"{folder} is there and holds no search; give another --run-dir")
        return False
    before = read_json(path, "give another --run-dir")
    changed = [name for name in now if now[name] != before.get(name)]
    if changed:
        changes = ", ".join(f"{name} {before.get(name)!r}, now {now[name]!r}" for name in changed)
        raise UsageError(
            f"{folder} holds a search with {changes}; give another --run-dir, or the same flags to resume it"
        )
    return True


def claim_folder(folder: Path, settings: SearchConfig) -> None:
    """Make a folder that of this search."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SETTINGS, _settings_text(settings))


def _settings_text(settings: SearchConfig) -> str:
    return json.dumps(dataclasses.asdict(settings), indent=2) + "\n"


class Search(base_tuner.BaseTuner):
    """One process of a search: all of it, its chief, or one of its workers.

    Args:
        space: from hyperparameters to a config.
        settings: what is searched.
        folder: of the search.
        trials: at most so many; None for as many as the time allows.
        deadline: of `time.monotonic`; None for none.
        role: alone, chief or worker.
        log: prints a line.
    """

    def __init__(
        self,
        space: Space,
        settings: SearchConfig,
        folder: Path,
        *,
        trials: int | None = None,
        deadline: float | None = None,
        role: str = "alone",
        log: Callable[[str], None] = print,
    ) -> None:
        self.space, self.settings, self.folder = space, settings, folder.resolve()
        self.trials, self.deadline, self.role, self.log = trials, deadline, role, log
        self.last_moment: Callable[[], float | None] | None = None
        config = self.config(keras_tuner.HyperParameters())
        self.epochs = config.epochs
        self.source: Source = source_of(config)
        objective = keras_tuner.Objective(settings.objective, OBJECTIVES[settings.objective])
        oracle = make_oracle(settings.tuner, objective, max_trials=trials, epochs=self.epochs, seed=settings.seed)
        oracle.verbose, oracle.deadline = 0, deadline
        self.full_oracle = oracle
        for path in [*self.folder.glob("oracle.json"), *self.folder.glob("trial_*/trial.json")]:
            read_json(path, "remove its folder for a trial, or give another --run-dir")
        with contextlib.redirect_stdout(None):  # KerasTuner prints that it reloads
            super().__init__(oracle, _Drawing(self), str(self.folder.parent), self.folder.name)

    def config(self, hp: keras_tuner.HyperParameters) -> TrainConfig:
        """The config of some hyperparameters, measured on a share of the training images alone."""
        config = draw(self.space, hp)
        epochs = hp.values.get("tuner/epochs") or self.settings.epochs or config.epochs
        fixed: dict[str, Any] = {"epochs": int(epochs), "run_dir": None}
        fixed |= {"validation": self.settings.validation, "final_test": False, "patience": 0}
        fixed["train_sizes"] = config.train_sizes[: fixed["epochs"]]
        return dataclasses.replace(config, **{**self.settings.changes, **fixed})

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / f"trial_{trial_id}"

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Train a trial; its figures, of which the oracle reads the objective."""
        folder = self.trial_folder(trial.trial_id)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            config = self.config(trial.hyperparameters)
            cost = self._affordable(config, folder)
            outcome = run(config, folder, self.deadline)
        except (RunError, UsageError) as error:
            write_text(folder / FAILURE, f"{error}\n")
            raise FailedTrialError(str(error)) from error
        figures = {name: value for name, value in dataclasses.asdict(cost).items() if value is not None}
        figures |= {"val_accuracy": outcome.accuracy, "val_loss": outcome.loss, "epochs": config.epochs}
        return {**figures, "seconds": time.monotonic() - started}

    def _affordable(self, config: TrainConfig, folder: Path) -> Cost:
        """The cost of a config. Raises `RunError` for one that is out of bounds."""
        cost, bounds = count(config, self.source), self.settings.bounds
        if (self.settings.measure_latency or bounds.max_latency_ms is not None) and not refusal(cost, bounds):
            write_text(folder / CONFIG, config.to_json())
            with progress("measuring the latency"):
                cost = dataclasses.replace(cost, latency_ms=round(latency_of(folder / CONFIG), 3))
        if why := refusal(cost, bounds):
            raise RunError(why)
        return cost

    def search(self, *_: Any, **__: Any) -> None:
        """Run trials until there are no more. Raises `OutOfTime` at the deadline."""
        with progress("searching", self.trials, "trials") as task:
            self._search(task)

    def _search(self, task: Progress) -> None:
        while True:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise OutOfTime
            trial = self.oracle.create_trial(self.tuner_id)
            if trial.status == Status.STOPPED:
                return
            if trial.status == Status.IDLE:  # others have trials whose results decide what is next
                time.sleep(IDLE_SECONDS)
                continue
            with Heartbeat(self.oracle, self.tuner_id) if self.role == "worker" else contextlib.nullcontext():
                self._try_run_and_update_trial(trial)
            self.oracle.end_trial(trial)
            self._log_trial(self.oracle.get_trial(trial.trial_id))
            task.add()

    def serve(self, address: str) -> None:
        """Hand out trials to workers, as the chief of KerasTuner's distributed mode, until there are no more.

        Raises:
            UsageError: the address is taken.
        """
        oracle = self.full_oracle
        server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        servicer = oracle_chief.OracleServicer(oracle)
        protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise UsageError(f"cannot listen at {address}; is the port taken? give another --address") from error
        server.start()
        logged, over_since = len(oracle.end_order), None
        task = Progress("searching", self.trials, "trials")
        try:
            while over_since is None or time.monotonic() - over_since < LINGER_SECONDS:
                time.sleep(0.2)
                for trial_id in oracle.end_order[logged:]:
                    self._log_trial(oracle.trials[trial_id])
                    logged += 1
                    task.to(logged)
                if servicer.stop_triggered and not oracle.ongoing_trials and over_since is None:
                    over_since = time.monotonic()
        finally:
            task.end()
            server.stop(1.0).wait()

    def set_deadline(self) -> None:
        """Set when trials must end, by `last_moment` where there is one: it depends on the best trial so far."""
        if self.last_moment is not None:
            self.deadline = self.full_oracle.deadline = self.last_moment()

    def _log_trial(self, trial: Any) -> None:
        self.set_deadline()
        best = self.oracle.get_best_trials(1)[0]
        name = self.settings.objective
        if trial.status == Status.COMPLETED:
            found = f"{name} {trial.score:.4f} in {trial.metrics.get_best_value('seconds'):.0f} s"
        else:
            found = f"failed: {failure_of(self.trial_folder(trial.trial_id))}"
        so_far = f"; best {best.score:.4f}, trial {best.trial_id}" if best.score is not None else ""
        left = "" if self.deadline is None else f"; {max(0, self.deadline - time.monotonic()) / 60:.1f} minutes left"
        self.log(f"trial {trial.trial_id}  {found}{so_far}{left}")

    def save(self) -> None:
        """The oracle saves itself."""

    def reload(self) -> None:
        if self.role != "worker":
            self.full_oracle.reload()

    def _get_tuner_fname(self) -> str:
        """A file that exists where there is a search to resume."""
        return str(self.folder / "oracle.json")


class _Drawing(keras_tuner.HyperModel):
    """KerasTuner calls it for the names of hyperparameters; it builds no network."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self._search = search

    def build(self, hp: keras_tuner.HyperParameters) -> None:
        self._search.config(hp)


def failure_of(folder: Path) -> str:
    """Why a trial failed, in one line."""
    path = folder / FAILURE
    return path.read_text("utf-8").strip() if path.exists() else "its worker gave no reason"


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within it SIGTERM is a `KeyboardInterrupt`."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def set_role(role: str, name: str, address: str) -> None:
    """Tell KerasTuner, by its own variables, which part of a search this process is."""
    ip, _, port = address.rpartition(":")
    if not ip or not port.isdecimal():
        raise UsageError(f"address must be HOST:PORT of the chief, not {address!r}")
    os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"] = ip, port
    vars(conditions)["print"] = lambda *_: None  # which KerasTuner left in, on standard output, for each trial it sends
    os.environ["KERASTUNER_TUNER_ID"] = "chief" if role == "chief" else f"worker-{name}"
