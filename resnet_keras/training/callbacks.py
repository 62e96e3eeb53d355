"""What happens beside the steps of a run: progress on the terminal, the table of epochs, the saved model."""

import csv
import io
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from resnet_keras.errors import UsageError
from resnet_keras.evaluation import Evaluation
from resnet_keras.files import write_text
from resnet_keras.runs import BEST, MODEL, TABLE, save_model

COLUMNS: tuple[str, ...] = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


class RunWriter(keras.callbacks.Callback):
    """After each epoch: the test split, a row in `metrics.csv`, `model.keras`, and the best one yet in `checkpoints/`.

    It puts `val_loss` and `val_accuracy` into the epoch's logs, for the callbacks after it.

    Args:
        folder: the run folder.
        network: the model to save; the one that is trained is a view of it.
        test: measures the network on the test split.
    """

    def __init__(self, folder: Path, network: keras.Model, test: Callable[[], Evaluation]) -> None:
        super().__init__()
        self.folder, self.network, self.test = folder, network, test
        self.rows: list[dict[str, Any]] = []
        self.tested: Evaluation | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = {} if logs is None else logs
        tested = self.test()
        if not math.isfinite(logs["loss"] + tested.loss):
            raise UsageError(
                f"the loss is no number after epoch {epoch + 1}: training diverged; lower --learning-rate "
                f"or lengthen --warmup ({self.folder} keeps the epochs before)"
            )
        self.tested = tested
        logs |= {"val_loss": self.tested.loss, "val_accuracy": self.tested.accuracy}
        best = max((row["val_accuracy"] for row in self.rows), default=-1.0)
        row = {
            **{name: float(value) for name, value in logs.items()},
            "epoch": epoch + 1,
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "seconds": time.perf_counter() - self.started,
        }
        self.rows.append({name: row[name] for name in COLUMNS})
        self.write_table()
        save_model(self.network, self.folder / MODEL)
        if row["val_accuracy"] > best:
            save_model(self.network, self.folder / BEST)

    def write_table(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.folder / TABLE, text.getvalue())


class Progress(keras.callbacks.Callback):
    """A line an epoch on standard error and, on a terminal, a line that moves: pictures a second, time left."""

    def __init__(self, epochs: int, steps: int, batch_size: int) -> None:
        super().__init__()
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.live = sys.stderr.isatty()
        self.start, self.clear = ("\r", "\033[K") if self.live else ("", "")
        self.shown = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self.run_started = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch, self.epoch_started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = time.perf_counter()
        if not self.live or now - self.shown < 0.2 or not logs:
            return
        self.shown, done = now, batch + 1
        rate = done * self.batch_size / (now - self.epoch_started)
        print(
            f"{self.start}{self._place()} {done * 100 // self.steps:3d} %  loss {logs['loss']:.4f}  accuracy "
            f"{logs['accuracy']:.4f}  {rate:,.0f} pictures/s  {self._left(done)} left{self.clear}",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        seconds = time.perf_counter() - self.epoch_started
        print(
            f"{self.start}{self._place()}  loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.4f}  "
            f"test loss {logs['val_loss']:.4f}  test accuracy {logs['val_accuracy']:.4f}  {seconds:.1f} s, "
            f"{self.steps * self.batch_size / seconds:,.0f} pictures/s, {self._left(self.steps)} left"
            f"{self.clear}",
            file=sys.stderr,
            flush=True,
        )

    def _place(self) -> str:
        return f"epoch {self.epoch + 1:{len(str(self.epochs))}d}/{self.epochs}"

    def _left(self, done: int) -> str:
        all_done = self.epoch * self.steps + done
        seconds = (time.perf_counter() - self.run_started) * (self.epochs * self.steps / all_done - 1)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
