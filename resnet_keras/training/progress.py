"""Progress of a run: a line an epoch, and below it how the epoch goes."""

import sys
import time
from typing import Any

from resnet_keras.progress import Progress as Task
from resnet_keras.progress import clock, has_display, say
from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup


class Progress(RunCallback):
    """Loss, accuracy, images/s and time left, on standard error.

    How an epoch goes is shown by the display that the program has installed; without one by a line that is written
    again and again, on a terminal.
    """

    def __init__(self, setup: TrainingSetup, record: Record) -> None:
        super().__init__(setup, record)
        self.epochs, self.batch_size = setup.config.epochs, setup.config.batch_size
        self.steps_per_epoch = setup.steps_per_epoch
        self.live = sys.stderr.isatty() and not has_display()
        self.task: Task | None = None
        self.start, self.clear = ("\r", "\033[K") if self.live else ("", "")

    def on_train_begin(self, logs: Any = None) -> None:
        # The figures are of this session alone, and of the steps after its first ones, which are compiled.
        self.compiled = False
        self._end_task()  # of an epoch that is rolled back
        self._start_clock()

    def _start_clock(self) -> None:
        self.first = self.epoch_first = self.record.step
        self.started = self.epoch_started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.compiled and self.record.step % self.steps_per_epoch:
            self._start_clock()
            self.compiled = True
        if not logs:
            return
        step = self.record.step
        done, place = step % self.steps_per_epoch or self.steps_per_epoch, (step - 1) // self.steps_per_epoch + 1
        figures = [f"loss {logs['loss']:.4f}", f"accuracy {logs['accuracy']:.4f}"]
        pace = self._pace() if step > self.first else []
        if self.live:
            line = f"{self._place(place)} {done * 100 // self.steps_per_epoch:3d} %  {'  '.join(figures)}"
            say(f"{self.start}{line}  {', '.join(pace)}{self.clear}", end="")
            return
        self.task = self.task or Task(self._place(place), self.steps_per_epoch, unit=None)  # resumed in the midst of it
        self.task.to(done, [*figures, *pace])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self.live:
            self.task = Task(self._place(epoch + 1), self.steps_per_epoch, unit=None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._end_task()
        row, found, split = self.record.row, self.record.evaluation, self.setup.source.measured_name
        measured = f"{split} loss {found.loss:.4f}  {split} accuracy {found.accuracy:.4f}  " if found else ""
        if found and found.several:
            measured += f"mAP {found.several.mean_average_precision:.4f}  "
        say(
            f"{self.start}{self._place(int(row['epoch']))}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"{measured}{row['seconds']:.1f} s, "
            f"{', '.join(self._pace())}{self.clear}"
        )
        self.epoch_first, self.epoch_started = self.record.step, time.perf_counter()

    def _place(self, epoch: int) -> str:
        return f"epoch {epoch:{len(str(self.epochs))}d}/{self.epochs}"

    def on_interrupted(self) -> None:
        self._end_task()

    def _end_task(self) -> None:
        if self.task:
            self.task.end()
        self.task = None

    def _pace(self) -> list[str]:
        step, now = self.record.step, time.perf_counter()
        rate = (step - self.epoch_first) * self.batch_size / (now - self.epoch_started)
        left = (now - self.started) / max(step - self.first, 1) * (self.epochs * self.steps_per_epoch - step)
        return [f"{rate:,.0f} images/s", f"{clock(left)} left"]
