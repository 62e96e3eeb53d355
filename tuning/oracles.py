"""KerasTuner's oracles, made to survive: a kill at any moment, a worker that dies, two searches of one folder."""

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine import trial as trials
from keras_tuner.oracles import BayesianOptimizationOracle, GridSearchOracle, HyperbandOracle, RandomSearchOracle

from resnet_keras.files import write_text

Status = trials.TrialStatus
SILENT_SECONDS = 60.0
"""A worker without a request for so long is taken for dead, and its trial is given to another."""
BEAT_SECONDS = 5.0


class Durable:
    """Goes before an oracle class of KerasTuner's.

    Files are written whole or not at all. A trial that was under way when the process died is run again, one that was
    finished is not. A worker shows that it lives by requesting the trial that it has; the search is not over while
    another worker has one.
    """

    deadline: float | None = None
    """Of `time.monotonic`, from when on nothing new is begun."""

    def save(self: Any) -> None:
        write_text(Path(self._get_oracle_fname()), json.dumps(self.get_state()))

    def _save_trial(self: Any, trial: trials.Trial) -> None:
        write_text(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", json.dumps(trial.get_state()))

    def reload(self: Any) -> None:
        super().reload()  # type: ignore[misc]
        # The trial's file is written before the oracle's, and a kill can come between.
        waiting = {key: trial for key, trial in sorted(self.trials.items()) if trial.status == Status.RUNNING}
        retried = {key for key in self._retry_queue if self.trials[key].status == Status.INVALID}
        self._retry_queue = sorted({*waiting, *retried}, reverse=True)
        for key, trial in self.trials.items():
            if trial.status in (Status.COMPLETED, Status.FAILED) and key not in self.end_order:
                self.end_order.append(key)

    @keras_tuner.synchronized
    def create_trial(self: Any, tuner_id: str) -> trials.Trial:
        now = time.monotonic()
        seen = self.__dict__.setdefault("_last_seen", {})
        seen[tuner_id] = now
        for worker in [name for name in self.ongoing_trials if now - seen.setdefault(name, now) > SILENT_SECONDS]:
            lost = self.ongoing_trials.pop(worker)
            self._retry_queue.append(lost.trial_id)
            self.tuner_ids.discard(worker)
        for worker in [name for name in self.tuner_ids if now - seen.setdefault(name, now) > SILENT_SECONDS]:
            self.tuner_ids.discard(worker)
        late = self.deadline is not None and now >= self.deadline and tuner_id not in self.ongoing_trials
        if late:
            self.tuner_ids.discard(tuner_id)
            trial = trials.Trial(self.hyperparameters.copy(), status=Status.STOPPED)
        else:
            trial = super().create_trial(tuner_id)  # type: ignore[misc]
        if trial.status == Status.STOPPED and self.ongoing_trials:
            # The trial of another worker could still come back; this one requests again.
            trial.status = Status.IDLE
            self.tuner_ids.add(tuner_id)
        return trial

    @keras_tuner.synchronized
    def end_trial(self: Any, trial: trials.Trial) -> None:
        known = self.ongoing_trials.values()
        if trial.trial_id not in {ongoing.trial_id for ongoing in known}:
            return  # its worker was taken for dead, and another has run it or will
        super().end_trial(trial)  # type: ignore[misc]


def _durable(kind: type) -> type:
    return type(f"Durable{kind.__name__}", (Durable, kind), {})


TUNERS: Mapping[str, type] = {
    "random": _durable(RandomSearchOracle),
    "bayesian": _durable(BayesianOptimizationOracle),
    "hyperband": _durable(HyperbandOracle),
    "grid": _durable(GridSearchOracle),
}


def make_oracle(tuner: str, objective: keras_tuner.Objective, *, max_trials: int | None, epochs: int, seed: int) -> Any:
    """An oracle that proposes trials.

    Args:
        tuner: one of `TUNERS`.
        objective: what is best.
        max_trials: None for as many as the time allows (hyperband: until its brackets are done, again and again).
        epochs: of a full trial; hyperband's first rounds have fewer.
        seed: of the proposals.
    """
    # A space may hold trials that fail one after the other; KerasTuner would end the search at the third.
    # KerasTuner draws a seed of its own in place of 0.
    common: dict[str, Any] = {"objective": objective, "seed": seed + 1, "max_consecutive_failed_trials": 10**9}
    if tuner == "hyperband":
        oracle = TUNERS[tuner](max_epochs=epochs, hyperband_iterations=None, **common)
        oracle.max_trials = max_trials
        return oracle
    return TUNERS[tuner](max_trials=max_trials or 10**6, **common)


class Heartbeat:
    """Requests a worker's own trial from the chief now and then, which changes nothing but shows that it lives."""

    def __init__(self, oracle: Any, tuner_id: str) -> None:
        self._oracle, self._tuner_id = oracle, tuner_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(grpc.RpcError):  # a chief that has gone may come again
                self._oracle.create_trial(self._tuner_id)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Ended before the trial is: to a later request the chief would hand out a new one."""
        self._stop.set()
        self._thread.join()
