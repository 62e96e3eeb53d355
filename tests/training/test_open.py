"""What a Keras user brings to `rk.train`: an optimizer, callbacks."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk
from resnet_keras.config.train import Augmentation, Optimizer, TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.models.optimizer import PureOptimizer
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.given import Given
from resnet_keras.training.optimizers import built_optimizer, make_optimizer
from resnet_keras.training.phases import phases_of
from resnet_keras.training.setup import TrainingSetup, make_setup
from resnet_keras.training.state import TrainingState
from resnet_keras.training.trainer import run


@pytest.fixture
def plain(tiny: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Images as they are, an epoch, 12 steps."""
    return dataclasses.replace(tiny, augmentation=Augmentation(), epochs=1, run_dir=str(tmp_path / "run"))


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.trainable_variables}


def fitted(setup: TrainingSetup, optimizer: keras.optimizers.Optimizer) -> dict[str, np.ndarray]:
    """The weights that Keras's `fit` ends at, from the weights and on the batches of a run."""
    batches = setup.batches(phases_of(setup.config)[0], 0, setup.steps_per_epoch)
    model = keras.Model(setup.trained.input, setup.trained.output)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit((batch for batch in batches), steps_per_epoch=setup.steps_per_epoch, epochs=1, shuffle=False, verbose=0)
    return weights_of(setup.network)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: keras.optimizers.AdamW(2e-3, weight_decay=0.1, clipnorm=1.0), id="adamw"),
        pytest.param(
            lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 12), 0.9, use_ema=True),
            id="sgd",
            marks=pytest.mark.slow,  # 5 s: test_fit has schedules and averages
        ),
        pytest.param(
            lambda: keras.optimizers.RMSprop(1e-3, gradient_accumulation_steps=2),
            id="rmsprop",
            marks=pytest.mark.slow,  # 3 s: test_fit accumulates too
        ),
    ],
)
def test_it_trains_as_fit_does_by_the_same_optimizer(plain: TrainConfig, make: Any) -> None:
    """The clipping and the rates of the config are those of its own optimizer."""
    plain = dataclasses.replace(plain, optimizer=Optimizer(clip_norm=1e-3, layer_decay=0.1))
    ours = weights_of(run(plain, given=Given(optimizer=make())).model)
    setup = make_setup(plain, make_strategy("none"))
    start = weights_of(setup.network)
    theirs = fitted(setup, make())
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, rtol=2e-3, atol=2e-5, err_msg=path)
    assert max(np.abs(theirs[path] - start[path]).max() for path in theirs) > 1e-3


def test_keras_callbacks_see_and_steer_the_run(plain: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(plain, epochs=6)
    seen: list[Any] = []
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=1e3, restore_best_weights=True)
    lower = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e3)
    kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch:02d}.weights.h5"), save_weights_only=True)
    told = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(("begin", epoch)),
        on_epoch_end=lambda epoch, logs: seen.append(("end", epoch, round(logs["learning_rate"], 6))),
    )
    optimizer = keras.optimizers.AdamW(2e-3)
    result = run(
        config, given=Given(optimizer=optimizer), callbacks=[stop, kept, told, lower, keras.callbacks.TerminateOnNaN()]
    )
    # The first epoch counts as better than none, the second is no better: stop, with the weights of the first.
    assert seen == [("begin", 0), ("end", 0, 0.002), ("begin", 1), ("end", 1, 0.002)]
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    assert (result.metrics["epochs"], result.metrics["interrupted"]) == (2, False)
    written = sorted(path.name for path in tmp_path.glob("*.weights.h5"))
    assert written == ["01.weights.h5", "02.weights.h5"]
    final = [weight.numpy() for weight in result.model.weights]
    result.model.load_weights(tmp_path / "01.weights.h5")
    for weight, value in zip(result.model.weights, final, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value, weight.path)
    assert rk.evaluate(result.run_dir).loss == pytest.approx(result.metrics["loss"], rel=1e-5)
    again = run(config, given=Given(optimizer=keras.optimizers.AdamW(2e-3)), callbacks=[stop])  # it is finished
    assert again.metrics == result.metrics


def test_model_files_hold_no_optimizer(plain: TrainConfig) -> None:
    result = run(plain, given=Given(optimizer=keras.optimizers.Adam(1e-3)))
    assert result.model.optimizer is None
    model = keras.saving.load_model(result.run_dir / "model.keras")
    assert not model.compiled


@pytest.mark.parametrize(("decayed", "expected"), [("kernels", "kk"), ("biases", "kkb"), ("all", "kggkb")])
@pytest.mark.parametrize("algorithm", ["sgd", "lamb", "adamw"])
def test_what_decays(algorithm: Any, decayed: Any, expected: str) -> None:
    """Without a gradient only the decay moves a weight: kernels, biases, or gammas and betas too."""
    config = Optimizer(0.1, weight_decay=0.5, algorithm=algorithm, decayed=decayed)
    inputs = keras.Input((4,))
    hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(3, use_bias=False, name="one")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="two")(hidden))
    optimizer = make_optimizer(config, config.learning_rate, model.trainable_variables)
    ones = [tf.ones_like(weight) for weight in model.trainable_variables]
    state = [tf.convert_to_tensor(variable) for variable in optimizer.variables]
    moved, _ = PureOptimizer(optimizer)(state, [tf.zeros_like(weight) for weight in ones], ones)
    kinds = {"kernel": "k", "bias": "b", "gamma": "g", "beta": "g"}
    names = [weight.path.split("/")[-1] for weight in model.trainable_variables]
    found = [kinds[name] for name, value in zip(names, moved, strict=True) if np.all(np.asarray(value) < 1)]
    assert "".join(found) == expected


@pytest.mark.parametrize("algorithm", ["adamw", "adam", "muon", "lion", "rmsprop"])
def test_keras_optimizers_of_a_config(algorithm: Any) -> None:
    """They move the weights; the decay is decoupled, of kernels alone, and slower in front with `layer_decay`."""
    config = Optimizer(1e-2, weight_decay=0.5, algorithm=algorithm, layer_decay=0.5)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="two")(keras.layers.Dense(4, name="one")(inputs)))
    optimizer = make_optimizer(config, config.learning_rate, model.trainable_variables)
    assert type(optimizer).__name__.lower() == algorithm
    settings = TrainConfig(optimizer=config)
    state = TrainingState(model, settings, tf.distribute.get_strategy(), 1)
    weights = [tf.ones_like(weight) for weight in model.trainable_variables]
    pure = PureOptimizer(optimizer, state.rates)
    before = [tf.convert_to_tensor(variable) for variable in optimizer.variables]
    still, _ = pure(before, [tf.zeros_like(weight) for weight in weights], weights)
    # Without a gradient nothing but the decay moves a weight: rate times decay of it.
    for weight, value, factor in zip(state.weights, still, (0.5, 0.5, 1.0, 1.0), strict=True):
        decays = len(weight.shape) > 1
        np.testing.assert_allclose(value, 1 - 1e-2 * 0.5 * factor if decays else 1.0, rtol=1e-5, err_msg=weight.path)
    moved, _ = pure(before, [tf.ones_like(weight) for weight in weights], weights)
    for value, other in zip(moved, still, strict=True):
        assert np.all(np.asarray(value) < np.asarray(other))


def test_an_optimizer_that_is_built_is_made_anew() -> None:
    weights = [keras.Variable(np.ones((2, 2)), name="kernel")]
    fresh = keras.optimizers.Adam(0.5, beta_1=0.8)
    assert built_optimizer(fresh, weights) is fresh
    again = built_optimizer(keras.optimizers.LossScaleOptimizer(fresh), weights)
    assert again is not fresh
    assert isinstance(again, keras.optimizers.Adam)
    assert (float(again.learning_rate), again.beta_1) == (0.5, 0.8)


def test_a_checkpoint_of_another_optimizer_is_refused(plain: TrainConfig) -> None:
    def dies(batch: int, logs: Any) -> None:
        if batch == 4:
            raise SystemExit

    with pytest.raises(SystemExit):
        run(
            dataclasses.replace(plain, checkpoint_steps=2),
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=dies)],
        )
    with pytest.raises(UsageError, match="another network, optimizer or version: it has no optimizer:learning_rate"):
        run(dataclasses.replace(plain, checkpoint_steps=2), given=Given(optimizer=keras.optimizers.Adam(1e-3)))
