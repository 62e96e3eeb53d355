"""A profile of some steps, for TensorBoard."""

from pathlib import Path

import tensorflow as tf

from resnet_keras.config.run_folder import LOGS


class Profiler:
    """Profiles the steps of a range into a run folder.

    Args:
        steps: the first and the last step, such as "10:20"; None for no profile.
        folder: the run folder.
    """

    def __init__(self, steps: str | None, folder: Path) -> None:
        first, last = map(int, steps.split(":")) if steps else (-1, -1)
        self.edges = (first, last + 1) if steps else ()
        """The steps before which the profile starts and ends."""
        self._folder, self._running = folder, False

    def before_step(self, step: int) -> None:
        """Start or end the profile where its turn is."""
        if self.edges and step == self.edges[0]:
            tf.profiler.experimental.start(str(self._folder / LOGS))
            self._running = True
        elif self.edges and step == self.edges[1] and self._running:
            tf.profiler.experimental.stop()
            self._running = False
