"""What a run shows beside its weights and its table: TensorBoard, progress, a model each epoch and a report."""

import shutil
from typing import Any

from resnet_keras.config.run_folder import BEST, MODEL
from resnet_keras.files import atomic_write
from resnet_keras.models.saved import save_model
from resnet_keras.reports.run import write_report
from resnet_keras.training.callbacks import MakeCallback, RunCallback
from resnet_keras.training.progress import Progress
from resnet_keras.training.tensorboard import TensorBoardLog


class ModelFiles(RunCallback):
    """Writes `model.keras` after each epoch, and `checkpoints/best.keras` after each that is better than all before."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        folder, accuracy = self.record.folder, self.record.row["val_accuracy"]
        save_model(self.setup.network, folder / MODEL)
        before = [row["val_accuracy"] for row in self.record.rows]
        if accuracy is not None and accuracy > max((a for a in before if a is not None), default=-1.0):
            best = folder / BEST
            best.parent.mkdir(exist_ok=True)
            with atomic_write(best) as beside:
                shutil.copyfile(folder / MODEL, beside)


class Report(RunCallback):
    """Writes `report.html` at the end."""

    def on_results(self) -> None:
        record = self.record
        assert record.evaluation is not None
        write_report(record.folder, self.setup.config, record.evaluation, record.metrics, list(record.rows))


def all_reporters(quiet: bool) -> list[MakeCallback]:
    """The reporters of `rk.train`; `quiet`: without progress."""
    return [ModelFiles, TensorBoardLog, Report, *([] if quiet else [Progress])]
