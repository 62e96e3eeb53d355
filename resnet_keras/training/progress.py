"""Progress on the terminal: a line an epoch, and a live line on a terminal."""

import sys
import time
from typing import Any

from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup


class Progress(RunCallback):
    """Loss, accuracy, images/s and time left, on standard error."""

    def __init__(self, setup: TrainingSetup, record: Record) -> None:
        super().__init__(setup, record)
        self.epochs, self.batch_size = setup.config.epochs, setup.config.batch_size
        self.steps_per_epoch = setup.steps_per_epoch
        self.live = sys.stderr.isatty()
        self.start, self.clear = ("\r", "\033[K") if self.live else ("", "")

    def on_train_begin(self, logs: Any = None) -> None:
        # The figures are of this session alone.
        self.first = self.epoch_first = self.record.step
        self.started = self.epoch_started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.live or not logs:
            return
        step = self.record.step
        percent = (step % self.steps_per_epoch or self.steps_per_epoch) * 100 // self.steps_per_epoch
        print(
            f"{self.start}{self._place((step - 1) // self.steps_per_epoch + 1)} {percent:3d} %  "
            f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.4f}  "
            f"{self._rate():,.0f} images/s  {self._left()} left{self.clear}",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row, found, split = self.record.row, self.record.evaluation, self.setup.source.measured_name
        measured = f"{split} loss {found.loss:.4f}  {split} accuracy {found.accuracy:.4f}  " if found else ""
        print(
            f"{self.start}{self._place(int(row['epoch']))}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"{measured}{row['seconds']:.1f} s, "
            f"{self._rate():,.0f} images/s, {self._left()} left{self.clear}",
            file=sys.stderr,
            flush=True,
        )
        self.epoch_first, self.epoch_started = self.record.step, time.perf_counter()

    def _place(self, epoch: int) -> str:
        return f"epoch {epoch:{len(str(self.epochs))}d}/{self.epochs}"

    def _rate(self) -> float:
        return (self.record.step - self.epoch_first) * self.batch_size / (time.perf_counter() - self.epoch_started)

    def _left(self) -> str:
        a_step = (time.perf_counter() - self.started) / max(self.record.step - self.first, 1)
        minutes, seconds = divmod(round(a_step * (self.epochs * self.steps_per_epoch - self.record.step)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
