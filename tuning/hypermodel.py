"""`ResNetHyperModel`: a space for any tuner of KerasTuner, in a script of your own."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.errors import FailedTrialError, FatalTypeError

from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.training import trainer
from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.record import Record
from resnet_keras.training.reporters import all_reporters
from resnet_keras.training.setup import TrainingSetup, image_format_for, network_of, source_of

from .spaces import Space, draw


class ResNetHyperModel(keras_tuner.HyperModel):
    """Builds the networks of a space and trains them as its configs say.

    The data are the config's, so `search` needs none. Objectives are loss, accuracy, val_loss and val_accuracy; the
    last two are of validation images, a share of the training images.

    Args:
        space: from hyperparameters to a config.
        validation: the share of the training images that validates.
        directory: of the run folders; a temporary one, which is removed, when None.
        **changes: fields of the config that are the same in every trial, such as data_dir.

    Examples:
        >>> def space(hp):
        ...     rate = hp.Float("learning_rate", 0.01, 0.3, sampling="log")
        ...     return dataclasses.replace(rk.RECIPES["digits"](), optimizer=rk.Optimizer(learning_rate=rate))
        >>> hypermodel = ResNetHyperModel(space)
        >>> tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=2, directory="searches")
        >>> tuner.search(epochs=1, verbose=0)
        >>> best = hypermodel.config(tuner.get_best_hyperparameters()[0])
        >>> best.data
        'digits'
    """

    def __init__(
        self, space: Space, *, validation: float = 0.1, directory: str | Path | None = None, **changes: Any
    ) -> None:
        super().__init__()
        self.space, self.directory = space, directory
        self.changes = {**changes, "validation": validation, "final_test": False, "run_dir": None}

    def config(self, hp: keras_tuner.HyperParameters) -> TrainConfig:
        """The config of some hyperparameters."""
        return dataclasses.replace(draw(self.space, hp), **self.changes)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The network, from raw pixels to probabilities, compiled so that it can be evaluated."""
        config = self.config(hp)
        source = source_of(config)
        keras.utils.set_random_seed(config.seed)
        model = network_of(config, source, image_format_for(config, source))
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *data: Any,
        epochs: int | None = None,
        initial_epoch: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: Any = 0,
        **options: Any,
    ) -> keras.callbacks.History:
        """Train `model` as the config says.

        It has the trained weights after every epoch, when the callbacks are called. Hyperband's later rounds train anew
        for more epochs: the rate's schedule is that of the whole run.

        Args:
            hp: of the trial.
            model: as `build` made it.
            *data: none; `search` passes on what it is given.
            **options: none, as with `data`.
            epochs: the config's when None.
            initial_epoch: of Hyperband's later rounds, which begin anew all the same.
            callbacks: called at the beginning, after each epoch and at the end.
            verbose: 0 for silence.

        Returns:
            loss, accuracy, val_loss and val_accuracy by epoch.

        Raises:
            FatalTypeError: data or other options of `keras.Model.fit`, which the config has; it ends the search.
            FailedTrialError: training was refused or diverged; a tuner continues with the next trial.
        """
        if data or options:
            words = ", ".join([*(["x"] if data else []), *(["y"] if data[1:] else []), *options])
            raise FatalTypeError(f"search() takes no {words}: the data, and how they are used, are the config's")
        config = self.config(hp)
        if epochs is not None:
            config = dataclasses.replace(config, epochs=epochs, train_sizes=config.train_sizes[:epochs])
        listed = keras.callbacks.CallbackList(list(callbacks), add_history=True, model=model, epochs=config.epochs)
        history = next(c for c in listed.callbacks if isinstance(c, keras.callbacks.History))
        listed.on_train_begin()
        with tempfile.TemporaryDirectory(dir=self.directory and str(self.directory)) as folder:
            config = dataclasses.replace(config, run_dir=str(Path(folder, "run")))
            quiet = verbose in (0, "0", None)
            reporters = [*all_reporters(quiet), lambda *run: _Copying(run[0], run[1], model, listed)]
            try:
                trainer.run(config, quiet=quiet, reporters=reporters)
            except UsageError as error:
                raise FailedTrialError(str(error)) from error
        listed.on_train_end()
        return history


class _Copying(RunCallback):
    """Brings a run's weights into the tuner's model after each epoch, and calls its callbacks."""

    def __init__(
        self, setup: TrainingSetup, record: Record, model: keras.Model, callbacks: keras.callbacks.CallbackList
    ) -> None:
        super().__init__(setup, record)
        self._copy, self._callbacks = model, callbacks

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._copy.set_weights(self.setup.network.get_weights())
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        self._callbacks.on_epoch_begin(epoch)
        self._callbacks.on_epoch_end(epoch, {name: value for name, value in (logs or {}).items() if name in names})
