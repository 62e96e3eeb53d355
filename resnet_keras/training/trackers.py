"""Experiment trackers, by the callbacks that their makers ship."""

import importlib.util
import os
from typing import Any

from resnet_keras.config.run_folder import CONFIG, HISTORY, METRICS, MODEL, REPORT
from resnet_keras.errors import UsageError, unknown
from resnet_keras.files import write_text
from resnet_keras.training.callbacks import MakeCallback, RunCallback
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup

RUN_ID = "mlflow.txt"
"""In a run folder: the run of MLflow, which a resumed run resumes."""


class Mlflow(RunCallback):
    """MLflow's own callback, in a run of MLflow's that has the config, the table, the report and the model.

    The store is the one that `MLFLOW_TRACKING_URI` names, or MLflow's own in the working folder.
    """

    def __init__(self, setup: TrainingSetup, record: Record) -> None:
        super().__init__(setup, record)
        import mlflow  # pyright: ignore[reportMissingImports]
        from mlflow.keras.callback import MlflowCallback  # pyright: ignore[reportMissingImports]

        self._mlflow, self._theirs = mlflow, MlflowCallback()
        known = record.folder / RUN_ID
        if known.is_file():
            mlflow.start_run(run_id=known.read_text("utf-8").strip(), log_system_metrics=False)
        else:
            run = mlflow.start_run(run_name=record.folder.name, log_system_metrics=False)
            write_text(known, f"{run.info.run_id}\n")

    def on_train_begin(self, logs: Any = None) -> None:
        self._theirs.set_model(self.model)
        self._theirs.on_train_begin(logs)
        self._mlflow.log_artifact(os.fspath(self.record.folder / CONFIG))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._theirs.on_epoch_end(epoch, logs)

    def on_results(self) -> None:
        numbers = {name: v for name, v in self.record.metrics.items() if isinstance(v, int | float)}
        self._mlflow.log_metrics({f"final_{name}": float(value) for name, value in numbers.items()})
        for name in (METRICS, HISTORY, REPORT, MODEL):
            if (path := self.record.folder / name).is_file():
                self._mlflow.log_artifact(os.fspath(path))
        self._mlflow.end_run("KILLED" if self.record.metrics["interrupted"] else "FINISHED")


TRACKERS: dict[str, MakeCallback] = {"mlflow": Mlflow}


def tracker(name: str) -> list[MakeCallback]:
    """The tracker of a name, for a run's reporters; none for "none".

    Raises:
        UsageError: it is unknown, or not installed.
    """
    if name == "none":
        return []
    if name not in TRACKERS:
        raise unknown("tracker", name, ["none", *TRACKERS])
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"--track {name} needs {name}: pip install 'resnet-keras[{name}]'")
    return [TRACKERS[name]]
