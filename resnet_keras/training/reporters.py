"""What a run shows beside its weights and its table: TensorBoard, progress, a model each epoch and a report."""

import subprocess
from typing import Any

import numpy as np

from resnet_keras.config.run_folder import MODEL
from resnet_keras.data.splits import FileSplit
from resnet_keras.errors import reason
from resnet_keras.models.saved import save_model
from resnet_keras.progress import progress, say
from resnet_keras.reports.images import SAMPLES
from resnet_keras.reports.run import RunFacts, write_report
from resnet_keras.training.callbacks import MakeCallback, RunCallback
from resnet_keras.training.phases import phases_of
from resnet_keras.training.progress import Progress
from resnet_keras.training.setup import TrainingSetup
from resnet_keras.training.tensorboard import TensorBoardLog


class ModelFiles(RunCallback):
    """Writes `model.keras` after each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        save_model(self.setup.network, self.record.folder / MODEL)


class Report(RunCallback):
    """Writes `report.html` at the end. The run is whole without: what goes wrong is said, and nothing else."""

    def on_results(self) -> None:
        record, setup = self.record, self.setup
        assert record.evaluation is not None
        try:
            with progress("writing the report"):
                measured = setup.source.test if record.metrics["split"] == "test" else setup.source.validation
                facts = RunFacts(
                    setup.network,
                    _samples(setup),
                    setup.steps_per_epoch * setup.config.batch_size,
                    _commit(),
                    measured.paths if isinstance(measured, FileSplit) else (),
                    record.uncalibrated and record.uncalibrated.reliability,
                )
                write_report(record.folder, setup.config, record.evaluation, record.metrics, list(record.rows), facts)
        except Exception as error:
            say(f"the run is complete; its report could not be written: {reason(error)}")


def _samples(setup: TrainingSetup) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the first batch, or of the first replica's part of it."""
    own = next(setup.batches(phases_of(setup.config)[0], 0, 1))
    images, labels = (setup.strategy.experimental_local_results(part)[0][:SAMPLES].numpy() for part in own)
    return images, labels


def _commit() -> str | None:
    """The commit of the working folder, with `-dirty` where files differ from it; None where there is none."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def all_reporters(quiet: bool) -> list[MakeCallback]:
    """The reporters of `rk.train`; `quiet`: without progress."""
    return [ModelFiles, TensorBoardLog, Report, *([] if quiet else [Progress])]
