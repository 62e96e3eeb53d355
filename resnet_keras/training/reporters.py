"""What a run shows beside its weights and its table: TensorBoard, progress, a model each epoch and a report."""

from typing import Any

from resnet_keras.config.run_folder import MODEL
from resnet_keras.models.saved import save_model
from resnet_keras.reports.run import write_report
from resnet_keras.training.callbacks import MakeCallback, RunCallback
from resnet_keras.training.progress import Progress
from resnet_keras.training.tensorboard import TensorBoardLog


class ModelFiles(RunCallback):
    """Writes `model.keras` after each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        save_model(self.setup.network, self.record.folder / MODEL)


class Report(RunCallback):
    """Writes `report.html` at the end."""

    def on_results(self) -> None:
        record = self.record
        assert record.evaluation is not None
        write_report(record.folder, self.setup.config, record.evaluation, record.metrics, list(record.rows))


def all_reporters(quiet: bool) -> list[MakeCallback]:
    """The reporters of `rk.train`; `quiet`: without progress."""
    return [ModelFiles, TensorBoardLog, Report, *([] if quiet else [Progress])]
