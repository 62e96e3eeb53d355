"""A loss that is not a number ends a run, or takes it back to an earlier checkpoint at half the learning rate."""

from pathlib import Path

from resnet_keras.errors import UsageError
from resnet_keras.training.checkpoints import checkpoints, newest_checkpoint
from resnet_keras.training.setup import TrainingSetup

LEAST_RATE_SCALE = 2.0**-5


class RollBack(Exception):  # noqa: N818
    """The run must resume from an earlier checkpoint."""


class BadLoss:
    """Finds a loss that is not a number, and the checkpoint to resume from.

    Args:
        setup: the run.
        folder: the run folder.
        writes: this host writes files.
    """

    def __init__(self, setup: TrainingSetup, folder: Path, writes: bool) -> None:
        self.config, self.state = setup.config, setup.state
        self.folder, self.writes = folder, writes
        self._last_bad, self._rollbacks = -1, 0

    @property
    def bad_step(self) -> int:
        """The first step whose loss was not a number; -1 for none."""
        return int(self.state.value_of(self.state.bad_step))

    @property
    def rate_scale(self) -> float:
        """Factor of the learning rate after the rollbacks so far."""
        return float(self.state.value_of(self.state.rate_scale))

    def check(self) -> None:
        """Check the losses so far.

        Raises:
            RollBack: a loss is not a number, with `on_nan="rollback"`.
            UsageError: a loss is not a number otherwise, or the learning rate was halved too often.
        """
        bad = self.bad_step
        if bad < 0:
            return
        if self.config.on_nan == "rollback" and self.rate_scale > LEAST_RATE_SCALE:
            raise RollBack
        rate = self.state.learning_rate
        raise self.diverged(f"the loss is no number at step {bad} (learning rate {rate:.3g})")

    def diverged(self, what: str) -> UsageError:
        """The error of a run that diverged."""
        checkpoint, _ = newest_checkpoint(self.folder)
        kept = f"the last good checkpoint is {checkpoint.path}" if checkpoint else "there is no checkpoint yet"
        return UsageError(
            f"{what}: training diverged; lower --learning-rate, lengthen --warmup or use --on-nan rollback ({kept})"
        )

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints that led to the bad loss. All hosts call it."""
        bad = self.bad_step
        # Bad again soon after: the weights were on their way out before that checkpoint, so take an older one.
        again = bad <= self._last_bad + self.config.checkpoint_steps
        self._rollbacks, self._last_bad = (self._rollbacks + 1 if again else 1), bad
        written = checkpoints(self.folder)
        self.state.wait_for_all()
        if self.writes:
            for path in written[: min(self._rollbacks, len(written)) - 1]:
                path.unlink()
        self.state.wait_for_all()
