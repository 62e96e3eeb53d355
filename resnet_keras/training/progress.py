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
        # The figures are of this session alone, and of the steps after its first ones, which are compiled.
        self.compiled = False
        self._start_clock()

    def _start_clock(self) -> None:
        self.first = self.epoch_first = self.record.step
        self.started = self.epoch_started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.compiled and self.record.step % self.steps_per_epoch:
            self._start_clock()
            self.compiled = True
        if not self.live or not logs:
            return
        step = self.record.step
        percent = (step % self.steps_per_epoch or self.steps_per_epoch) * 100 // self.steps_per_epoch
        print(
            f"{self.start}{self._place((step - 1) // self.steps_per_epoch + 1)} {percent:3d} %  "
            f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.4f}  "
            f"{self._pace() if step > self.first else ''}{self.clear}",
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
            f"{self._pace()}{self.clear}",
            file=sys.stderr,
            flush=True,
        )
        self.epoch_first, self.epoch_started = self.record.step, time.perf_counter()

    def _place(self, epoch: int) -> str:
        return f"epoch {epoch:{len(str(self.epochs))}d}/{self.epochs}"

    def _pace(self) -> str:
        step, now = self.record.step, time.perf_counter()
        rate = (step - self.epoch_first) * self.batch_size / (now - self.epoch_started)
        left = (now - self.started) / max(step - self.first, 1) * (self.epochs * self.steps_per_epoch - step)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        time_left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        return f"{rate:,.0f} images/s, {time_left} left"
