"""The loop of a run: step after step, and what happens at an epoch's end, a checkpoint, a signal or a bad loss."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from resnet_keras.config.run_folder import LOGS
from resnet_keras.errors import UsageError
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.training.building import Prepared
from resnet_keras.training.checkpoints import checkpoints, newest_checkpoint, save_checkpoint
from resnet_keras.training.phases import Phase, phases_of, set_learning, view_of_size
from resnet_keras.training.record import Record, Row

LOOK_SECONDS = 0.2
"""Between two looks at the devices, each of which waits for them."""
LEAST_RATE_SCALE = 2.0**-5


class Watcher(Protocol):
    """What is told of a run as it goes."""

    def begin(self, step: int) -> None:
        """The run starts, or goes on, with this step."""

    def steps(self, step: int, totals: np.ndarray | None) -> None:
        """So many steps are done; the sums of the epoch so far (loss, right answers, images), where looked up."""

    def epoch(self, row: Row, tested: Evaluation | None) -> None:
        """An epoch is done, tested where its turn is, and written."""


class Interrupted(Exception):  # noqa: N818
    """The run was asked to stop; its checkpoint is written. `by_hand`: someone waits for what there is."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand


class _RollBack(Exception):  # noqa: N818
    pass


@dataclass
class Loop:
    """A run from where its state is to its end."""

    prepared: Prepared
    record: Record
    test: Callable[[], Evaluation]
    """Measures the network on the test split."""
    folder: Path
    host: int
    hosts: int
    watchers: Sequence[Watcher]
    say: Callable[[str], None]
    """Prints a line."""
    tested: Evaluation | None = field(default=None, init=False)
    """After the last epoch."""
    done: int = field(default=0, init=False)
    """Steps done."""
    _looked: float = field(default=0.0, init=False)
    _epoch_seconds: float = field(default=0.0, init=False)
    """That the epoch had taken when its checkpoint was written."""
    _epoch_started: float = field(default=0.0, init=False)
    _profiling: bool = field(default=False, init=False)
    _last_bad: int = field(default=-1, init=False)
    _rollbacks: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        prepared = self.prepared
        self.config, self.network, self.state, self.step = (
            prepared.config,
            prepared.network,
            prepared.state,
            prepared.step,
        )
        self.steps_per_epoch = prepared.steps_per_epoch
        self.writes = self.host == 0

    def run(self) -> None:
        """Go on to the end.

        Raises:
            Interrupted: after SIGTERM or Ctrl-C; the checkpoint is written.
            UsageError: for a loss that is no number.
        """
        with stop_signals() as self._signals:
            self.done = int(self.state.value_of(self.state.step))
            self._epoch_started = time.perf_counter() - self._epoch_seconds
            if self.done == 0 and self.config.on_nan == "rollback":
                self.save()
            for watcher in self.watchers:
                watcher.begin(self.done)
            try:
                self._finish_epoch()  # where the run was stopped between its last step and its row
                while self.done < self.prepared.total_steps:
                    phase = next(p for p in phases_of(self.config) if self.done < p.last * self.steps_per_epoch)
                    try:
                        self._run_phase(phase)
                    except _RollBack:
                        self._roll_back()
            except KeyboardInterrupt as interrupt:
                if self._bad_step() < 0:
                    self.save()
                raise Interrupted(self._signals.number != signal.SIGTERM) from interrupt

    def restore(self) -> bool:
        """Take over the newest sound checkpoint of the folder, if there is one."""
        checkpoint, damaged = newest_checkpoint(self.folder)
        for path, why in damaged.items():
            self.say(f"{path} is damaged ({why}): the one before it counts")
            if self.writes:
                path.rename(path.with_suffix(".damaged"))  # or it would be kept as the newest
        if checkpoint is None:
            return False
        self.state.load(checkpoint.arrays)
        self.state.write_totals(checkpoint.notes["totals"], mine=self.writes)
        self.record.rows = checkpoint.notes["rows"]
        self._epoch_seconds = checkpoint.notes["epoch_seconds"]
        return True

    def save(self) -> None:
        """Write a checkpoint. All hosts call it."""
        self.state.settle()
        totals = self.state.read_totals()
        if self.writes:
            notes = {
                "totals": totals.tolist(),
                "rows": self.record.rows,
                "epoch_seconds": time.perf_counter() - self._epoch_started,
            }
            arrays = self.state.arrays()
            save_checkpoint(self.folder, int(arrays["step"]), arrays, notes, self.config.keep_checkpoints)
        self.state.wait_for_all()  # until it is written

    def _run_phase(self, phase: Phase) -> None:
        set_learning(self.network, self.config, phase)
        run = self.step.runner(view_of_size(self.prepared.trained, phase.size))
        last = phase.last * self.steps_per_epoch
        batches = self.prepared.batches(phase, self.done, last)
        while self.done < last:
            self._profile()
            count = min(self.config.steps_per_execution, self._until_a_stop(last))
            run(batches, tf.constant(count))
            self.done += count
            self._look()
            stop = self.state.all_agree_to_stop(self._signals.asked)
            if self.done % self.steps_per_epoch == 0:
                self._finish_epoch()
            elif self.done % self.config.checkpoint_steps == 0:
                self._check_loss()
                self.save()
            if stop:
                raise KeyboardInterrupt

    def _until_a_stop(self, last: int) -> int:
        every = [self.steps_per_epoch, self.config.checkpoint_steps]
        stops = [last, *((self.done // n + 1) * n for n in every), *(s for s in self._profiled() if s > self.done)]
        return min(stops) - self.done

    def _look(self) -> None:
        now, totals = time.perf_counter(), None
        due = now - self._looked > LOOK_SECONDS
        if due or self.hosts > 1:  # hosts must see a bad step at the same one
            self._check_loss()
        if due:
            self._looked = now
            totals = self.state.read_totals(everywhere=False)
        for watcher in self.watchers:
            watcher.steps(self.done, totals)

    def _finish_epoch(self) -> None:
        epoch = self.done // self.steps_per_epoch
        if self.done % self.steps_per_epoch or len(self.record.rows) == epoch:
            return
        self._check_loss()
        self.state.settle()
        loss, right, count = self.state.read_totals()
        with self._signals.at_once(self.hosts == 1), self.state.averages_in_place():
            tested = self.test() if epoch % self.config.test_every == 0 or epoch == self.config.epochs else None
            row: Row = {
                "epoch": epoch,
                "loss": loss / count,
                "accuracy": right / count,
                "val_loss": tested and tested.loss,
                "val_accuracy": tested and tested.accuracy,
                "learning_rate": float(self.step.rate(self.done)) * self._rate_scale(),
                "seconds": time.perf_counter() - self._epoch_started,
            }
            if tested and not math.isfinite(tested.loss):
                raise self._diverged(f"the test loss is no number after epoch {epoch}")
            if self.writes:
                self.record.write_model(row, self.network)
        self.tested = tested
        self.record.rows.append(row)
        if self.writes:
            self.record.write_table()
        self.state.write_totals(np.zeros(3))
        self._epoch_started = time.perf_counter()
        self.save()
        for watcher in self.watchers:
            watcher.epoch(row, tested)

    def _check_loss(self) -> None:
        bad = self._bad_step()
        if bad < 0:
            return
        if self.config.on_nan == "rollback" and self._rate_scale() > LEAST_RATE_SCALE:
            raise _RollBack
        rate = float(self.step.rate(bad)) * self._rate_scale()
        raise self._diverged(f"the loss is no number at step {bad} (learning rate {rate:.3g})")

    def _diverged(self, what: str) -> UsageError:
        checkpoint, _ = newest_checkpoint(self.folder)
        kept = f"the last good checkpoint is {checkpoint.path}" if checkpoint else "there is no checkpoint yet"
        return UsageError(
            f"{what}: training diverged; lower --learning-rate, lengthen --warmup or use --on-nan rollback ({kept})"
        )

    def _roll_back(self) -> None:
        bad, rate_scale = self._bad_step(), self._rate_scale()
        # Bad again soon after: the weights were on their way out before that checkpoint, so take an older one.
        again = bad <= self._last_bad + self.config.checkpoint_steps
        self._rollbacks, self._last_bad = (self._rollbacks + 1 if again else 1), bad
        written = checkpoints(self.folder)
        self.state.wait_for_all()
        if self.writes:
            for path in written[: min(self._rollbacks, len(written)) - 1]:
                path.unlink()
        self.state.wait_for_all()
        self.restore()
        self.state.set_rate_scale(rate_scale / 2)
        self.done = int(self.state.value_of(self.state.step))
        self._epoch_started = time.perf_counter() - self._epoch_seconds
        self.save()
        self.say(f"the loss was no number at step {bad}: back to step {self.done}, at half the learning rate")
        for watcher in self.watchers:
            watcher.begin(self.done)

    def _bad_step(self) -> int:
        return int(self.state.value_of(self.state.bad_step))

    def _rate_scale(self) -> float:
        return float(self.state.value_of(self.state.rate_scale))

    def _profiled(self) -> tuple[int, ...]:
        """The steps before which a profile starts and ends."""
        if not self.config.profile or not self.writes:
            return ()
        first, last = map(int, self.config.profile.split(":"))
        return first, last + 1

    def _profile(self) -> None:
        edges = self._profiled()
        if edges and self.done == edges[0]:
            tf.profiler.experimental.start(str(self.folder / LOGS))
            self._profiling = True
        elif edges and self.done == edges[1] and self._profiling:
            tf.profiler.experimental.stop()
            self._profiling = False


class StopSignals:
    """Whether SIGTERM or Ctrl-C came. The step that runs is finished first; a second one does not wait."""

    def __init__(self) -> None:
        self.asked = self._raises = False
        self.number: int | None = None

    def __call__(self, number: int, frame: Any) -> None:
        self.number = number
        if self._raises or self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextlib.contextmanager
    def at_once(self, alone: bool) -> Iterator[None]:
        """Within it a signal raises `KeyboardInterrupt` where it arrives; not where other hosts wait for this one."""
        if self.asked and alone:
            raise KeyboardInterrupt
        self._raises = alone
        try:
            yield
        finally:
            self._raises = False


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catch SIGTERM and Ctrl-C, in the main thread, the only one that may."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
