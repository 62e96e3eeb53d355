"""A run that learns from a teacher: what is computed, what of the teacher stays out of it, and what is refused."""

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import TINY, randomise

import resnet_keras as rk
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import GIVEN, Augmentation, TrainConfig
from resnet_keras.data.images import resize
from resnet_keras.data.splits import ArraySplit, Source
from resnet_keras.errors import UsageError
from resnet_keras.models.around import LogProbabilities
from resnet_keras.models.tokens import resampling
from resnet_keras.training.checkpoints import checkpoints, read_checkpoint
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.distillation import distilled, open_teacher
from resnet_keras.training.given import Given
from resnet_keras.training.phases import phases_of, view_of_size
from resnet_keras.training.setup import TrainingSetup, make_setup
from resnet_keras.training.trainer import run

DIGITS = tuple("0123456789")


def small_net(labels: tuple[str, ...] = DIGITS, size: int = 8, channels: int = 1, **options: Any) -> keras.Model:
    """A net with weights of its own, and a normalisation that is not that of the digits."""
    card = rk.ModelCard(mean=(0.6,), std=(0.5,), labels=labels, crop=1.0)
    options = {"blocks": (1, 1), "widths": (4, 8), "stem_width": 4, "include_preprocessing": card, **options}
    model = rk.create_model("cifar_resnet20", input_shape=(size, size, channels), classes=len(labels), **options)
    randomise(model, seed=1)
    return model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    small_net().save(path)
    return str(path)


@pytest.fixture
def taught(tiny: TrainConfig, teacher: str, tmp_path: Path) -> TrainConfig:
    """An epoch of 11 steps."""
    changes: dict[str, Any] = {"teacher": teacher, "distillation_temperature": 4.0, "distillation_weight": 0.7}
    return dataclasses.replace(tiny, epochs=1, run_dir=str(tmp_path / "run"), **changes)


def some_source(**changes: Any) -> Source:
    split = ArraySplit(np.zeros((1, 8, 8, 1), "uint8"), np.zeros(1, "int64"))
    return dataclasses.replace(Source("some", DIGITS, 1, (8, 8), split, split), **changes)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize(("kind", "temperature"), [("soft", 1.0), ("soft", 4.0), ("hard", 4.0)])
def test_the_loss_is_that_of_the_papers(kind: Any, temperature: float) -> None:
    rng = np.random.default_rng(0)
    losses, logits, theirs = rng.uniform(size=5), rng.normal(0, 3, (5, 7)), rng.normal(0, 3, (5, 7))
    if kind == "soft":
        p, q = softmax(theirs / temperature), softmax(logits / temperature)
        own = temperature**2 * (p * np.log(p / q)).sum(-1)
    else:
        own = -np.log(softmax(logits)[np.arange(5), theirs.argmax(-1)])
    config = TrainConfig(distillation=kind, distillation_temperature=temperature, distillation_weight=0.3)
    found = distilled(config, *(tf.constant(value, tf.float32) for value in (losses, logits, theirs)))
    np.testing.assert_allclose(found, 0.7 * losses + 0.3 * own, rtol=1e-5)


def test_soft_gradients_are_those_of_the_cross_entropy_with_soft_targets() -> None:
    """Hinton et al. 2015, equation 2: 1/T (q - p), here times the square of T."""
    rng = np.random.default_rng(0)
    logits, theirs = (tf.constant(rng.normal(0, 3, (5, 7)), tf.float32) for _ in range(2))
    config = TrainConfig(distillation_temperature=4.0, distillation_weight=1.0)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = distilled(config, tf.zeros(5), logits, theirs)
    expected = 4 * (softmax(logits.numpy() / 4) - softmax(theirs.numpy() / 4))
    found: Any = tape.gradient(loss, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def dense(**options: Any) -> list[keras.layers.Layer]:
    sure = keras.initializers.RandomNormal(stddev=3, seed=0)  # so sure that float32 has probabilities of 1e-40 as 0
    return [keras.layers.Flatten(), keras.layers.Dense(4, kernel_initializer=sure, **options)]


@pytest.mark.parametrize(
    ("layers", "exact"),
    [
        (lambda: dense(), True),
        (lambda: dense(activation="softmax"), True),
        (lambda: [*dense(), keras.layers.Softmax()], True),
        (lambda: [*dense(), keras.layers.Rescaling(0.5), keras.layers.Activation("softmax")], True),
        (lambda: [*dense(activation="softmax"), LogProbabilities(), keras.layers.Softmax()], False),
        (lambda: [*dense(activation="softmax"), keras.layers.Dropout(0.5)], False),
    ],
    ids=["logits", "dense with softmax", "softmax", "scaled", "logarithms", "probabilities"],
)
def test_probabilities_at_a_temperature_are_the_models_own(
    layers: Callable[[], list[keras.layers.Layer]], exact: bool, tmp_path: Path
) -> None:
    """p(T) is p^(1/T) made to sum to one, whatever the model ends in."""
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Rescaling(1 / 255), *layers()])
    model.save(tmp_path / "model.keras")
    config = TrainConfig(teacher=str(tmp_path / "model.keras"))
    teacher = open_teacher(config, some_source(labels=tuple("abcd")))
    assert teacher
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 2, 1), "uint8")
    logits = teacher.logits(tf.constant(images), teacher.values()).numpy().astype("float64")
    kernel, bias = (np.asarray(w, "float64") for w in model.layers[2].get_weights())
    scores = (images / 255).reshape(50, 4) @ kernel + bias
    scores = scores / 2 if any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers[2:]) else scores
    tail = 0.0 if exact else 0.02  # what lies below the least probability that the model gives
    np.testing.assert_allclose(softmax(logits / 4), softmax(scores / 4), rtol=1e-4, atol=tail)


def test_it_normalises_resizes_and_orders_by_its_own_card(tmp_path: Path) -> None:
    labels = ("c", "a", "b")
    model = small_net(labels, size=12)
    model.save(tmp_path / "model.keras")
    config = TrainConfig(teacher=str(tmp_path / "model.keras"), distillation="hard")
    teacher = open_teacher(config, some_source(labels=("a", "b", "c")))
    assert teacher
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), "uint8")
    found = softmax(teacher.logits(tf.constant(images), teacher.values()).numpy())
    expected = model.predict(resize(tf.constant(images), (12, 12), "bilinear").numpy(), verbose=0)
    np.testing.assert_allclose(found, expected[:, [1, 2, 0]], rtol=1e-4, atol=1e-6)
    assert teacher.words(config, (8, 8)).endswith("parameters, and its images are resized to 12x12")
    assert ": hard distillation, 0.5 of the loss" in teacher.words(config, (8, 8))


@pytest.mark.parametrize(("side", "wanted"), [(8, 12), (32, 13), (7, 30), (8, 8)])
def test_sides_are_resized_as_images_are(side: int, wanted: int) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, side, 6, 3)).astype("float32")
    found = np.einsum("ih,nhwc->niwc", resampling(wanted, side, "float32", "bilinear"), images)
    np.testing.assert_allclose(found, resize(tf.constant(images), (wanted, 6), "bilinear"), atol=1e-3)


def test_with_weight_0_a_run_is_as_without(tiny: TrainConfig, teacher: str) -> None:
    """The same weights to start from, and a step that knows no teacher."""
    without = make_setup(tiny, make_strategy("none"))
    of_none = make_setup(dataclasses.replace(tiny, teacher=teacher, distillation_weight=0.0), make_strategy("none"))
    assert of_none.teacher
    assert of_none.step.teacher is None
    for one, other in zip(without.network.get_weights(), of_none.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def fitted(config: TrainConfig, setup: TrainingSetup) -> None:
    """What Keras's `fit` makes of a setup's network with the same loss, written by hand."""
    teacher = rk.load_model(str(config.teacher))
    batches = setup.batches(phases_of(setup.config)[0], 0, setup.steps_per_epoch)
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    probabilities = teacher.predict(images, verbose=0)  # from pixels, by the card of its own
    weight, temperature = config.distillation_weight, config.distillation_temperature

    def loss(targets: Any, logits: Any) -> Any:
        own = keras.losses.categorical_crossentropy(targets[:, :10], logits, from_logits=True)
        if config.distillation == "hard":
            chosen = keras.ops.one_hot(keras.ops.argmax(targets[:, 10:], -1), 10)
            theirs = keras.losses.categorical_crossentropy(chosen, logits, from_logits=True)
        else:
            soft = keras.ops.softmax(keras.ops.log(targets[:, 10:]) / temperature)
            ours = keras.ops.softmax(logits / temperature)
            theirs = temperature**2 * keras.losses.kl_divergence(soft, ours)
        return (1 - weight) * own + weight * theirs

    model = keras.Model(setup.trained.input, setup.trained.output)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    targets = np.concatenate([labels, probabilities], axis=1)
    model.fit(images, targets, config.batch_size, shuffle=False, verbose=0)


def assert_same_weights(one: keras.Model, other: keras.Model) -> None:
    for ours, theirs in zip(one.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=2e-3, atol=2e-5, err_msg=ours.path)


def test_a_run_trains_as_fit_does_and_keeps_nothing_of_its_teacher(taught: TrainConfig) -> None:
    config = dataclasses.replace(taught, augmentation=Augmentation(mixup=0.4))
    before = Path(str(config.teacher)).read_bytes()
    result = run(config, given=Given(optimizer=keras.optimizers.SGD(0.1)))
    setup = make_setup(
        dataclasses.replace(config, teacher=None), make_strategy("none"), Given(optimizer=keras.optimizers.SGD(0.1))
    )
    kept = read_checkpoint(checkpoints(result.run_dir)[0])
    assert kept.arrays.keys() == setup.state.arrays().keys()
    fitted(config, setup)
    assert_same_weights(result.model, setup.network)
    assert Path(str(config.teacher)).read_bytes() == before
    assert rk.load_model(result.run_dir).count_params() == setup.network.count_params()
    identity = json.loads((result.run_dir / "metrics.json").read_text())["teacher"]
    assert identity == kept.notes["teacher"]
    assert identity["model"] == config.teacher
    assert config_from_json((result.run_dir / "config.json").read_text()) == config

    # As a run that was stopped: another teacher is refused, by its name and by its weights.
    (result.run_dir / "metrics.json").unlink()
    with pytest.raises(UsageError, match=r"another config: teacher was '.*teacher.keras', now None"):
        run(dataclasses.replace(config, teacher=None))
    other = small_net()
    randomise(other, seed=2)
    try:
        other.save(str(config.teacher))
        with pytest.raises(UsageError, match="the teacher .* is not as it was when the run in .* stopped: its weights"):
            run(config, given=Given(optimizer=keras.optimizers.SGD(0.1)))
    finally:
        Path(str(config.teacher)).write_bytes(before)


@pytest.mark.slow  # 4 s: the test above is of the soft one
def test_a_hard_run_trains_as_fit_does(taught: TrainConfig) -> None:
    config = dataclasses.replace(taught, augmentation=Augmentation(), distillation="hard", label_smoothing=0.1)
    result = run(config, given=Given(optimizer=keras.optimizers.SGD(0.1)))
    setup = make_setup(config, make_strategy("none"))
    fitted(config, setup)
    assert_same_weights(result.model, setup.network)


def stepped(config: TrainConfig, strategy: str = "none", at_once: int = 1) -> dict[str, np.ndarray]:
    """The state after two steps of a net whose norms know nothing of the batch."""
    options = {**TINY, "norm": "group"}
    config = dataclasses.replace(config, model_options=options, batch_size=16, strategy=strategy)
    setup = make_setup(config, make_strategy(strategy))
    phase = phases_of(setup.config)[0]
    steps, batches = setup.step.runner(view_of_size(setup.trained, phase.size)), setup.batches(phase, 0, 2)
    for _ in range(0, 2, at_once):
        steps(batches, tf.constant(at_once))
    return setup.state.arrays() | {"loss": setup.state.read_totals()[0]}


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        # 4 to 20 s each: test_step has them without a teacher.
        pytest.param("mirrored", {}, marks=pytest.mark.slow),
        pytest.param("none", {"xla": "on"}, marks=pytest.mark.slow),
        pytest.param("none", {"accumulation": 4}, marks=pytest.mark.slow),
        pytest.param("mirrored", {"xla": "on", "accumulation": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_devices_xla_and_parts_learn_the_same(taught: TrainConfig, strategy: str, changes: dict[str, Any]) -> None:
    one, other = stepped(taught), stepped(dataclasses.replace(taught, **changes), strategy)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_several_steps_at_once_other_sizes_and_precisions(taught: TrainConfig, tmp_path: Path) -> None:
    one = stepped(taught)
    for name, value in stepped(taught, at_once=2).items():
        np.testing.assert_array_equal(value, one[name], err_msg=name)
    half = stepped(dataclasses.replace(taught, precision="mixed_bfloat16"))
    assert half["loss"] == pytest.approx(one["loss"], rel=0.02)
    scaled = stepped(dataclasses.replace(taught, precision="mixed_float16"))
    assert scaled["loss"] == pytest.approx(one["loss"], rel=0.02)
    # The teacher, of 8x8 pixels, sees images of 6x6 resized: under XLA, too.
    small = dataclasses.replace(taught, train_sizes=(6,))
    plain, compiled = stepped(small), stepped(dataclasses.replace(small, xla="on"))
    assert plain["loss"] != pytest.approx(stepped(dataclasses.replace(small, teacher=None))["loss"], rel=0.01)
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_a_run_that_is_stopped_resumes_to_the_last_bit(taught: TrainConfig, tmp_path: Path) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 7:
                raise ZeroDivisionError

    options = {**TINY, "dropout": 0.2}
    config = dataclasses.replace(taught, epochs=2, checkpoint_steps=3, ema=0.9, model_options=options)
    whole = run(dataclasses.replace(config, run_dir=str(tmp_path / "whole")))
    with pytest.raises(ZeroDivisionError):
        run(config, callbacks=[Stop()])
    assert checkpoints(tmp_path / "run")[0].stem == "step-000000006"
    resumed = run(config)
    one, other = (read_checkpoint(checkpoints(done.run_dir)[0]) for done in (whole, resumed))
    for name, value in one.arrays.items():
        np.testing.assert_array_equal(value, other.arrays[name], err_msg=name)
    assert one.notes["totals"] == other.notes["totals"]


@pytest.mark.slow
def test_a_model_loss_and_data_of_ones_own_have_a_teacher_too(teacher: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), "uint8")
    data = [(images, np.arange(64) % 10)] * 2
    ends = []
    for weight in (0.0, 1.0):
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
        keras.utils.set_random_seed(0)
        config = TrainConfig(
            epochs=1, batch_size=16, teacher=teacher, distillation_weight=weight, run_dir=str(tmp_path / f"{weight}")
        )
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        loss = keras.losses.CategoricalCrossentropy()
        ends.append(rk.train(config, model=model, data=data, loss=loss, quiet=True).model.get_weights())
        with zipfile.ZipFile(tmp_path / f"{weight}" / "model.keras") as archive:
            assert "stem" not in archive.read("config.json").decode()
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(*ends, strict=True))


def test_what_no_teacher_can_be_is_refused(teacher: str, tmp_path: Path) -> None:
    config = TrainConfig(teacher=teacher)
    with pytest.raises(UsageError, match=r"the teacher .* has 10 classes, some has 2; give another"):
        open_teacher(config, some_source(labels=("a", "b")))
    with pytest.raises(UsageError, match=r"the teacher .* takes 1 channels, some has 3; give another"):
        open_teacher(config, some_source(channels=3))
    small_net(tuple("abcdefghij")).save(tmp_path / "letters.keras")
    letters = TrainConfig(teacher=str(tmp_path / "letters.keras"))
    with pytest.raises(UsageError, match=r"the teacher .* does not know the class 'z' of some; give another"):
        open_teacher(letters, some_source(labels=tuple("abcdefghiz")))
    assert open_teacher(letters, some_source())  # whose labels are numbers, which name nothing
    small_net(classifier_activation="sigmoid").save(tmp_path / "several.keras")
    with pytest.raises(UsageError, match=r"the teacher .* gives several labels an image, and must give probabilities"):
        open_teacher(TrainConfig(teacher=str(tmp_path / "several.keras")), some_source())
    with pytest.raises(UsageError, match="there is no run folder or model at nowhere"):
        make_setup(TrainConfig(teacher="nowhere"), make_strategy("none"))
    for weights in ("imagenet", "timm/resnet50.a1_in1k", "some.safetensors"):
        with pytest.raises(UsageError, match=f"the teacher {weights} is weights without their network; build it in"):
            make_setup(TrainConfig(teacher=weights), make_strategy("none"))


def test_several_labels_have_no_teacher(teacher: str) -> None:
    split = np.zeros((4, 8, 8, 1), "uint8"), np.ones((4, 10), "int64")
    config = TrainConfig(teacher=teacher, data=GIVEN)
    with pytest.raises(UsageError, match="teacher is for one label an image, and data given has several; leave it out"):
        make_setup(config, make_strategy("none"), Given(data=(split, split)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distillation_weight": 1.5}, "distillation_weight must be between 0 and 1, not 1.5"),
        ({"distillation_temperature": 0.0}, "distillation_temperature must be above 0, not 0.0"),
        ({"distillation": "warm"}, "unknown distillation 'warm'; choose from soft, hard"),
        ({"loss": "sigmoid"}, "loss must be softmax with a teacher, not sigmoid"),
    ],
)
def test_fields(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(teacher="some", **changes)
