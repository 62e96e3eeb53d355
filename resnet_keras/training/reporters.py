"""What a run shows beside its weights and its table: TensorBoard, progress, a model each epoch and a report."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from resnet_keras.config.run_folder import BEST, MODEL
from resnet_keras.files import atomic_write
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.models.saved import save_model
from resnet_keras.reports.run import write_report
from resnet_keras.training.callbacks import Callback, MakeCallback
from resnet_keras.training.progress import Progress
from resnet_keras.training.record import EpochRow
from resnet_keras.training.setup import TrainingSetup
from resnet_keras.training.tensorboard import TensorBoardLog


class ModelFiles(Callback):
    """Writes `model.keras` after each epoch, and `checkpoints/best.keras` after each that is better than all before."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.folder = Path(str(setup.config.run_dir))

    def on_epoch_model(self, network: keras.Model, rows: Sequence[EpochRow]) -> None:
        save_model(network, self.folder / MODEL)
        *before, accuracy = (row["val_accuracy"] for row in rows)
        if accuracy is not None and accuracy > max((a for a in before if a is not None), default=-1.0):
            best = self.folder / BEST
            best.parent.mkdir(exist_ok=True)
            with atomic_write(best) as beside:
                shutil.copyfile(self.folder / MODEL, beside)


class Report(Callback):
    """Writes `report.html` at the end."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.config = setup.config

    def on_train_end(self, test: Evaluation, metrics: dict[str, Any], rows: Sequence[EpochRow]) -> None:
        write_report(Path(str(self.config.run_dir)), self.config, test, metrics, list(rows))


def all_reporters(quiet: bool) -> list[MakeCallback]:
    """The reporters of `rk.train`; `quiet`: without progress."""
    return [ModelFiles, TensorBoardLog, Report, *([] if quiet else [Progress])]
