"""The terminal: a line an epoch and, where someone watches, one that moves."""

import sys
import time

import numpy as np

from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.training.record import Row


class Progress:
    """Loss, accuracy, images/s and time left, on standard error."""

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int) -> None:
        self.epochs, self.steps_per_epoch, self.batch_size = epochs, steps_per_epoch, batch_size
        self.live = sys.stderr.isatty()
        self.start, self.clear = ("\r", "\033[K") if self.live else ("", "")

    def begin(self, step: int) -> None:
        """Figures are of this session alone."""
        self.first = self.epoch_first = self.done = step
        self.started = self.epoch_started = time.perf_counter()

    def steps(self, step: int, totals: np.ndarray | None) -> None:
        self.done = step
        if not self.live or totals is None or not totals[2]:
            return
        loss, right, count = totals
        share = (step % self.steps_per_epoch or self.steps_per_epoch) * 100 // self.steps_per_epoch
        print(
            f"{self.start}{self._place((step - 1) // self.steps_per_epoch + 1)} {share:3d} %  loss {loss / count:.4f}  "
            f"accuracy {right / count:.4f}  {self._rate():,.0f} images/s  {self._left()} left{self.clear}",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def epoch(self, row: Row, tested: Evaluation | None) -> None:
        test = f"test loss {tested.loss:.4f}  test accuracy {tested.accuracy:.4f}  " if tested else ""
        print(
            f"{self.start}{self._place(int(row['epoch']))}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"{test}{row['seconds']:.1f} s, "
            f"{self._rate():,.0f} images/s, {self._left()} left{self.clear}",
            file=sys.stderr,
            flush=True,
        )
        self.epoch_first, self.epoch_started = self.done, time.perf_counter()

    def _place(self, epoch: int) -> str:
        return f"epoch {epoch:{len(str(self.epochs))}d}/{self.epochs}"

    def _rate(self) -> float:
        return (self.done - self.epoch_first) * self.batch_size / (time.perf_counter() - self.epoch_started)

    def _left(self) -> str:
        a_step = (time.perf_counter() - self.started) / max(self.done - self.first, 1)
        minutes, seconds = divmod(round(a_step * (self.epochs * self.steps_per_epoch - self.done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
