"""The loop of a run: step after step, and the work at an epoch's end, a checkpoint, a signal or a bad loss."""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.config.run_folder import BEST
from resnet_keras.errors import UsageError
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.models.saved import save_model
from resnet_keras.training.callbacks import RunCallback, plain_attributes, restore_states, states_of, watches_batches
from resnet_keras.training.checkpoints import newest_checkpoint, save_checkpoint
from resnet_keras.training.devices import host_of
from resnet_keras.training.input import no_wait_for_ever
from resnet_keras.training.phases import Phase, phases_of, set_trainable, view_of_size
from resnet_keras.training.profiler import Profiler
from resnet_keras.training.record import EpochRow, Record, best_epoch
from resnet_keras.training.rollback import BadLoss, RollBack
from resnet_keras.training.setup import TrainingSetup
from resnet_keras.training.signals import stop_signals

READ_SECONDS = 0.2
"""Between two reads of the devices, each of which waits for them."""


class Interrupted(Exception):  # noqa: N818
    """The run was interrupted; its checkpoint is written. `by_hand`: by Ctrl-C, so its results are wanted now."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand


class Loop:
    """A run from the state of its setup to its end.

    Args:
        setup: the run.
        record: its table and figures, and the run folder.
        measure: measures the network after an epoch.
        callbacks: called as the run goes, as Keras calls them.
        say: prints a line.
        saved: called when a checkpoint is written.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        record: Record,
        measure: Callable[[], Evaluation],
        callbacks: Sequence[keras.callbacks.Callback],
        say: Callable[[str], None],
        saved: Callable[[], None],
    ) -> None:
        self.setup, self.record, self.measure, self.say, self._saved = setup, record, measure, say, saved
        self.config, self.state, self.steps_per_epoch = setup.config, setup.state, setup.steps_per_epoch
        self.folder = record.folder
        host, self.hosts = host_of(setup.strategy)
        self.writes = host == 0
        self.network = setup.network
        self.callbacks = keras.callbacks.CallbackList(
            list(callbacks), model=self.network, epochs=self.config.epochs, steps=self.steps_per_epoch, verbose=0
        )
        self.own = [callback for callback in callbacks if isinstance(callback, RunCallback)]
        self.given = [callback for callback in callbacks if not isinstance(callback, RunCallback)]
        """The user's."""
        self._watched = any(watches_batches(callback) for callback in self.given)
        self._bad_loss = BadLoss(setup, self.folder, self.writes)
        self._profiler = Profiler(self.config.profile if self.writes else None, self.folder)
        self._last_read = 0.0
        self._epoch_seconds = 0.0
        """That the epoch had taken when its checkpoint was written."""
        self._epoch_started = 0.0
        self._fresh: list[dict[str, Any]] = []
        self._kept: list[Any] = []
        self._kept_arrays: Mapping[str, np.ndarray] = {}

    @property
    def done(self) -> int:
        """Steps done."""
        return self.record.step

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: after SIGTERM or Ctrl-C; the checkpoint is written.
            UsageError: the loss is not a number.
        """
        with stop_signals() as self._signals:
            self._start()
            self.network.stop_training = False
            self.callbacks.on_train_begin()
            self._fresh = [plain_attributes(callback) for callback in self.given]
            restore_states(self.given, self._kept, self._kept_arrays)
            if self.done == 0 and self.config.on_nan == "rollback":
                self.save()
            try:
                self._finish_epoch()  # where the run was stopped between its last step and its row
                while self.done < self.setup.total_steps and not self.record.stopped:
                    phase = next(p for p in phases_of(self.config) if self.done < p.last * self.steps_per_epoch)
                    try:
                        self._run_phase(phase)
                    except RollBack:
                        self._roll_back()
            except KeyboardInterrupt as interrupt:
                if self._bad_loss.bad_step < 0:
                    self.save()
                raise Interrupted(self._signals.number != signal.SIGTERM) from interrupt

    def restore(self) -> bool:
        """Load the newest sound checkpoint of the folder. Returns whether there is one."""
        checkpoint, damaged = newest_checkpoint(self.folder)
        for path, why in damaged.items():
            self.say(f"{path} is damaged ({why}); the checkpoint before it is used")
            if self.writes:
                path.rename(path.with_suffix(".damaged"))  # or it would be kept as the newest
        if checkpoint is None:
            return False
        self._check_data(checkpoint.notes.get("data"))
        if self.setup.teacher:
            self.setup.teacher.check_same(checkpoint.notes.get("teacher"), self.folder)
        if self.setup.quantization:  # another machine, or a GPU, may measure others in the last bit
            self.setup.quantization.use(checkpoint.notes["int8_ranges"])
        self.state.load(checkpoint.arrays)
        self.state.write_totals(checkpoint.notes["totals"], mine=self.writes)
        self.record.rows = checkpoint.notes["rows"]
        self._epoch_seconds = checkpoint.notes["epoch_seconds"]
        self.record.stopped = checkpoint.notes.get("stopped", False)
        self._kept, self._kept_arrays = checkpoint.notes.get("callbacks", []), checkpoint.arrays
        return True

    def _check_data(self, before: dict[str, Any] | None) -> None:
        now = self.setup.data
        if before is None:
            self.say("whether the data are as they were is not known: the checkpoint is of version 0.1")
        elif before != now:
            counts = " and ".join(
                f"{one['training']:,} training and {one['test']:,} test images {when}"
                for one, when in ((before, "then"), (now, "now"))
            )
            raise UsageError(
                f"the data of {self.folder} are not as they were when it stopped ({counts}); put them back, or give "
                "another --run-dir to train anew"
            )

    def save(self) -> None:
        """Write a checkpoint. All hosts call it."""
        self.state.sync_batch_stats()
        totals = self.state.read_totals()
        if self.writes:
            kept, kept_arrays = states_of(self.given, self._fresh)
            notes = {
                "totals": totals.tolist(),
                "rows": self.record.rows,
                "epoch_seconds": time.perf_counter() - self._epoch_started,
                "stopped": self.record.stopped,
                "callbacks": kept,
                "data": self.setup.data,
                **({"teacher": self.setup.teacher.identity} if self.setup.teacher else {}),
                **({"int8_ranges": self.setup.quantization.ranges} if self.setup.quantization else {}),
            }
            arrays = self.state.arrays() | kept_arrays
            save_checkpoint(self.folder, int(arrays["step"]), arrays, notes, self.config.keep_checkpoints)
            self._saved()
        self.state.wait_for_all()  # until it is written

    def _start(self) -> None:
        self.record.step = int(self.state.value_of(self.state.step))
        self._epoch_started = time.perf_counter() - self._epoch_seconds

    def _run_phase(self, phase: Phase) -> None:
        set_trainable(self.setup.network, self.config, phase)
        run = self.setup.step.runner(view_of_size(self.setup.trained, phase.size))
        last = phase.last * self.steps_per_epoch
        batches = self.setup.batches(phase, self.done, last)
        while self.done < last and not self.record.stopped:
            batch = self.done % self.steps_per_epoch
            if batch == 0:
                self.callbacks.on_epoch_begin(self.done // self.steps_per_epoch)
            self.callbacks.on_train_batch_begin(batch)
            self._profiler.before_step(self.done)
            count = min(self.config.steps_per_execution, self._until_a_stop(last))
            with no_wait_for_ever(self.config, count):
                run(batches, tf.constant(count))
            self.record.step += count
            self._read()
            stop = self.state.all_agree_to_stop(self._signals.requested)
            if self.done % self.steps_per_epoch == 0:
                self._finish_epoch()
            elif self.done % self.config.checkpoint_steps == 0:
                self._bad_loss.check()
                self.save()
            if stop:
                raise KeyboardInterrupt

    def _until_a_stop(self, last: int) -> int:
        """Steps to the next one after which Python has something to do."""
        every = [self.steps_per_epoch, self.config.checkpoint_steps]
        stops = [last, *((self.done // n + 1) * n for n in every), *(s for s in self._profiler.edges if s > self.done)]
        return min(stops) - self.done

    def _read(self) -> None:
        now, logs = time.perf_counter(), {}
        due = now - self._last_read > READ_SECONDS
        if due or self.hosts > 1:  # hosts must see a bad step at the same one
            self._bad_loss.check()
        if due or self._watched:
            self._last_read = now
            loss, correct, count = self.state.read_totals(everywhere=False)
            logs = {"loss": loss / count, "accuracy": correct / count} if count else {}
        self.callbacks.on_train_batch_end((self.done - 1) % self.steps_per_epoch, logs)

    def _finish_epoch(self) -> None:
        epoch = self.done // self.steps_per_epoch
        if self.done % self.steps_per_epoch or len(self.record.rows) == epoch:
            return
        self._bad_loss.check()
        self.state.sync_batch_stats()
        with self._signals.at_once(self.hosts == 1), self.state.averages_in_place():
            self.callbacks.on_test_begin()
            test = self.measure() if epoch % self.config.test_every == 0 or epoch == self.config.epochs else None
            if test and not math.isfinite(test.loss):
                split = self.setup.source.measured_name
                raise self._bad_loss.diverged(f"the {split} loss is no number after epoch {epoch}")
            self.record.row, self.record.evaluation = self._row(epoch, test), test
            row = self.record.row
            logs = {k: v for k, v in row.items() if v is not None and k not in ("epoch", "seconds", "split")}
            self._keep_best()
            self.callbacks.on_test_end(logs)
            self.callbacks.on_epoch_end(epoch - 1, logs)
        self.record.rows.append(self.record.row)
        patience, best = self.config.patience, best_epoch(self.record.rows)
        self.record.stopped = bool(self.network.stop_training or (patience and epoch - (best or epoch) >= patience))
        if self.writes:
            self.record.write_table()
        self.state.write_totals(np.zeros(3))
        self._epoch_started = time.perf_counter()
        self.save()

    def _keep_best(self) -> None:
        """Write the network of the epoch that ends where it is the best so far on validation images."""
        row = self.record.row
        chosen = self.setup.source.validation and self.config.final_test
        if chosen and self.writes and best_epoch([*self.record.rows, row]) == row["epoch"]:
            save_model(self.network, self.folder / BEST)

    def _row(self, epoch: int, test: Evaluation | None) -> EpochRow:
        loss, correct, count = self.state.read_totals()
        return {
            "epoch": epoch,
            "loss": loss / count,
            "accuracy": correct / count,
            "val_loss": test and test.loss,
            "val_accuracy": test and test.accuracy,
            "learning_rate": self.state.learning_rate,
            "seconds": time.perf_counter() - self._epoch_started,
            "split": self.setup.source.measured_name,
            **{f"val_{name}": value for name, value in (test.given if test else {}).items()},
        }

    def _roll_back(self) -> None:
        bad, rate_scale = self._bad_loss.bad_step, self._bad_loss.rate_scale
        self._bad_loss.drop_checkpoints()
        self.restore()
        self.state.set_rate_scale(rate_scale / 2)
        self._start()
        self.save()
        self.say(f"the loss was no number at step {bad}: back to step {self.done}, at half the learning rate")
        restore_states(self.given, self._kept, self._kept_arrays)
        for callback in self.own:
            callback.on_train_begin()
