"""The compiled step: devices, XLA, parts of a batch, precisions and optimizers all train the same net."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk
from resnet_keras.config.train import Optimizer, Schedule, TrainConfig
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.state import ITERATION, TrainingState
from resnet_keras.training.step import Step

BATCH, STEPS = 16, 4
BASE = TrainConfig(
    batch_size=BATCH,
    optimizer=Optimizer(0.05, weight_decay=1e-3, clip_norm=2.0),
    schedule=Schedule("linear", warmup=0.5),
    label_smoothing=0.1,
    ema=0.9,
)
# Sums in another order: float32 has 1e-7, some hundred of which add up along the net and four steps.
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-5}


@dataclasses.dataclass
class Trained:
    """What a few steps left."""

    arrays: dict[str, np.ndarray]
    totals: np.ndarray
    batch_stats: list[list[np.ndarray]]
    """Of each replica."""
    state: TrainingState
    network: keras.Model


def data(batch: int = BATCH, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, steps * batch)
    # Images that say their class, so that there is something to learn.
    images = rng.normal(size=(steps * batch, 8, 8, 3)) + labels[:, None, None, None] / 5
    return images.astype("float32"), np.eye(10, dtype="float32")[labels]


def some_net(**options: Any) -> keras.Model:
    options = {"blocks": (1, 1), "widths": (8, 16), "stem_width": 8, "shortcut": "B", **options}
    return rk.create_model("cifar_resnet20", input_shape=(8, 8, 3), **options)


def train(
    strategy_name: str = "none",
    xla: bool = False,
    steps: int = STEPS,
    start: Trained | None = None,
    images: np.ndarray | None = None,
    order: np.ndarray | None = None,
    at_once: int = 1,
    config: TrainConfig = BASE,
    **options: Any,
) -> Trained:
    strategy = make_strategy(strategy_name)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        with strategy.scope():
            keras.utils.set_random_seed(0)
            network = some_net(**options)
            trained = keras.Model(network.input, network.get_layer("logits").output)
    finally:
        keras.config.set_dtype_policy(before)
    state = TrainingState(network, config, strategy, STEPS)
    first = 0
    if start:
        state.load(start.arrays)
        state.write_totals(start.totals)
        first = int(start.arrays["step"])
    step = Step(trained, state, config, xla=xla)
    pixels, labels = data()
    pixels = pixels if images is None else images
    if order is not None:
        pixels, labels = pixels[order], labels[order]
    own = BATCH // strategy.num_replicas_in_sync
    dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(own, drop_remainder=True)
    dataset = dataset.skip(first * strategy.num_replicas_in_sync)
    batches: Iterator[Any] = (
        iter(dataset)
        if strategy.num_replicas_in_sync == 1
        else iter(strategy.distribute_datasets_from_function(lambda _: dataset))
    )
    run = step.runner()
    for _ in range(0, steps, at_once):
        run(batches, tf.constant(at_once))
    batch_stats = [
        [copy.numpy() for copy in strategy.experimental_local_results(variable.value)] for variable in state.batch_stats
    ]
    return Trained(state.arrays(), state.read_totals(), batch_stats, state, network)


@functools.cache
def shared(strategy: str = "none", steps: int = STEPS, **options: Any) -> Trained:
    """`train`, once for all tests that compare with it."""
    return train(strategy, steps=steps, **options)


def assert_same(one: Trained, other: Trained, batch_stats: bool = True, **tolerance: Any) -> None:
    """Weights, optimizer state, running averages, counters and metrics agree; and the net did learn."""
    tolerance = tolerance or CLOSE
    assert one.arrays.keys() == other.arrays.keys()
    for name, value in one.arrays.items():
        if batch_stats or "moving_" not in name:
            np.testing.assert_allclose(other.arrays[name], value, err_msg=name, **tolerance)
    np.testing.assert_allclose(other.totals, one.totals, **tolerance)
    assert one.totals[2] == STEPS * BATCH


@pytest.fixture(scope="module")
def group() -> Trained:
    """One device, a net whose norms know nothing of the batch."""
    return shared(norm="group")


def test_the_net_learns(group: Trained) -> None:
    first = shared(norm="group", steps=1)
    assert np.abs(group.arrays["variable:logits/kernel"] - first.arrays["variable:logits/kernel"]).max() > 1e-3
    assert group.arrays["step"] == STEPS


@pytest.mark.parametrize(
    ("strategy", "xla", "changes"),
    [
        # 20 s each: XLA alone is in test_training, and below with replicas, parts and batch norm.
        pytest.param("none", True, {}, marks=pytest.mark.slow),
        pytest.param("mirrored", True, {}, marks=pytest.mark.slow),
        pytest.param("mirrored", True, {"accumulation": 2}, marks=pytest.mark.slow),
        ("mirrored", False, {}),
        ("none", False, {"accumulation": 4}),
        ("none", False, {"accumulation": 1, "steps_per_execution": 2}),
    ],
    ids=str,
)
def test_devices_xla_and_parts_give_the_one_device_run(
    group: Trained, strategy: str, xla: bool, changes: dict[str, Any]
) -> None:
    assert_same(group, train(strategy, xla, config=dataclasses.replace(BASE, **changes), norm="group"))


def test_gradients_that_travel_in_bfloat16_are_rounded_and_nothing_else(group: Trained) -> None:
    """By 2**-8 each, and the weights by no more; what does not travel is not rounded."""
    halves = dataclasses.replace(BASE, gradients="bfloat16")
    rounded, start = train("mirrored", config=halves, norm="group"), train(steps=0, norm="group")
    weights = [path for path in start.arrays if path.startswith("variable:")]
    apart, moved = (
        np.sqrt(sum(np.square(one.arrays[path] - other.arrays[path]).sum() for path in weights))
        for one, other in ((rounded, group), (group, start))
    )
    assert 0 < apart < 2**-8 * moved
    for weight in rounded.network.trainable_weights:
        one, other = (copy.numpy() for copy in rounded.state.strategy.experimental_local_results(weight.value))
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_gradients_of_one_device_stay_as_they_are(group: Trained) -> None:
    alone = train(config=dataclasses.replace(BASE, gradients="bfloat16"), norm="group")
    for path, value in group.arrays.items():
        np.testing.assert_array_equal(alone.arrays[path], value)


@pytest.mark.slow
def test_replicas_with_batch_norm_and_xla_follow_replicas_without() -> None:
    """Each replica's batch_stats are of its own images: they are compared replica by replica."""
    halves = dataclasses.replace(BASE, accumulation=2)
    plain, compiled = train("mirrored", config=halves), train("mirrored", xla=True, config=halves)
    assert_same(plain, compiled)
    for ours, theirs in zip(plain.batch_stats, compiled.batch_stats, strict=True):
        assert len(ours) == 2
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(other, one, **CLOSE)
    assert any(np.abs(first - second).max() > 1e-3 for first, second in plain.batch_stats)
    # One device that takes the same halves in turn has the same gradients, and another order of batch_stats.
    assert_same(shared("mirrored"), train(config=halves), batch_stats=False)


@pytest.mark.slow  # 7 s: the next one has the same in parts
def test_replicas_with_synchronised_norm_follow_one_device_in_one_part() -> None:
    assert_same(train(norm="sync_batch"), train("mirrored", norm="sync_batch"))


def test_replicas_with_synchronised_norm_follow_one_device() -> None:
    # Of two parts, a part has the first half of either replica's images: one device takes them in that order.
    halves = dataclasses.replace(BASE, accumulation=2)
    order = np.arange(STEPS * BATCH).reshape(STEPS, 2, 2, -1).transpose(0, 2, 1, 3).ravel()
    assert_same(train(config=halves, order=order), train("mirrored", config=halves, norm="sync_batch"))


def test_settled_replicas_have_the_mean_of_their_batch_stats() -> None:
    two = shared("mirrored")
    two.state.sync_batch_stats()
    for variable, (first, second) in zip(two.state.batch_stats, two.batch_stats, strict=True):
        for copy in two.state.strategy.experimental_local_results(variable.value):
            np.testing.assert_allclose(copy.numpy(), (first + second) / 2, rtol=1e-6, atol=1e-7)


def test_the_same_step_by_step_and_several_at_once(group: Trained) -> None:
    several = train(norm="group", at_once=4)
    for name, value in group.arrays.items():
        np.testing.assert_array_equal(several.arrays[name], value, err_msg=name)


@pytest.mark.slow  # 8 s: test_resume has one device
@pytest.mark.parametrize("strategy", ["none", "mirrored"])
def test_a_state_goes_on_to_the_last_bit(strategy: str) -> None:
    config = dataclasses.replace(BASE, model_options={})
    options: dict[str, Any] = {"stochastic_depth": 0.3, "dropout": 0.2}
    whole = train(strategy, config=config, **options)
    half = train(strategy, steps=2, config=config, **options)
    half.state.sync_batch_stats()
    rest = train(
        strategy, steps=2, start=Trained(half.state.arrays(), half.totals, [], half.state, half.network), **options
    )
    for name, value in whole.arrays.items():
        if strategy == "none" or "moving_" not in name:  # settled in the middle: the same mean, rounded elsewhere
            np.testing.assert_array_equal(rest.arrays[name], value, err_msg=name)
    np.testing.assert_allclose(rest.totals, whole.totals, rtol=1e-12)


# The first block never drops, and no norm follows the last: it takes three to show in batch_stats.
DROPS: dict[str, Any] = {"stochastic_depth": 0.5, "norm": "batch", "blocks": (1, 1, 1), "widths": (8, 16, 16)}


@pytest.mark.parametrize("drops", [True, pytest.param(False, marks=pytest.mark.slow)])  # 3 s: that nothing else differs
def test_replicas_drop_different_things(drops: bool) -> None:
    """Both replicas see the same images; without a net that drops their gradients would be the same."""
    images, _ = data()
    halves = images.reshape(STEPS, 2, BATCH // 2, 8, 8, 3)
    twice = np.concatenate([halves[:, :1], halves[:, :1]], axis=1).reshape(images.shape)
    result = train("mirrored", images=twice, steps=1, **(DROPS if drops else {}))
    largest = max(np.abs(first - second).max() for first, second in result.batch_stats)
    assert (largest > 1e-4) == drops


@pytest.mark.parametrize(
    ("precision", "strategy", "xla"),
    [
        ("mixed_bfloat16", "none", False),
        pytest.param("mixed_float16", "none", True, marks=pytest.mark.slow),  # 3 s: its loss scale is tested below
        # 20 s each; replicas with XLA are tested in float32.
        pytest.param("mixed_bfloat16", "mirrored", True, marks=pytest.mark.slow),
        pytest.param("mixed_float16", "mirrored", True, marks=pytest.mark.slow),
    ],
)
def test_mixed_precision_follows_float32(precision: Any, strategy: str, xla: bool) -> None:
    """Eight bits blur each number, so it is the direction of the way gone, and its length, that must be the same."""
    group = shared(norm="group", steps=2)
    mixed = train(strategy, xla, steps=2, config=dataclasses.replace(BASE, precision=precision), norm="group")
    start = shared(norm="group", steps=0).arrays
    ours, theirs = (
        np.concatenate([(run.arrays[n] - start[n]).ravel() for n in start if n.startswith("variable:")])
        for run in (group, mixed)
    )
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9
    assert np.linalg.norm(theirs) == pytest.approx(np.linalg.norm(ours), rel=0.05)
    assert mixed.totals[0] == pytest.approx(group.totals[0], rel=0.01)
    assert all(value.dtype != np.float16 for value in mixed.arrays.values())


def test_float16_lowers_its_loss_scale_and_skips_the_step() -> None:
    config = dataclasses.replace(BASE, precision="mixed_float16", ema=0.0)
    images, _ = data()
    before = train(steps=0, config=config)
    images = images.copy()
    images[:BATCH] *= 1e6  # the first batch overflows
    after = train(steps=1, images=images, config=config)
    assert after.arrays["loss_scale"] == before.arrays["loss_scale"] / 2
    assert after.state.value_of(after.state.bad_step) == -1
    for name, value in before.arrays.items():
        if name.startswith(("variable:", "velocity:")):
            np.testing.assert_array_equal(after.arrays[name], value, err_msg=name)
    later = train(steps=2, images=images, config=config)
    assert np.abs(later.arrays["variable:logits/kernel"] - before.arrays["variable:logits/kernel"]).max() > 0


@pytest.mark.parametrize("strategy", ["none", pytest.param("mirrored", marks=pytest.mark.slow)])  # 4 s
def test_a_bad_batch_stops_all_change(strategy: str) -> None:
    """From the first loss that is no number on, all but the count of steps stays at its last good value."""
    images, _ = data()
    images = images.copy()
    images[2 * BATCH] = np.nan
    good, bad = shared(strategy, steps=2), train(strategy, images=images)
    assert bad.state.value_of(bad.state.bad_step) == 2
    for name, value in good.arrays.items():
        if name not in ("step", ITERATION):
            np.testing.assert_array_equal(bad.arrays[name], value, err_msg=name)


@pytest.mark.parametrize("strategy", ["none", pytest.param("mirrored", marks=pytest.mark.slow)])  # 3 s: test_fit clips
def test_the_gradient_is_clipped_as_a_whole(strategy: str) -> None:
    config = dataclasses.replace(
        BASE, optimizer=Optimizer(1.0, momentum=0, nesterov=False, weight_decay=0, clip_norm=1e-3)
    )
    config = dataclasses.replace(config, schedule=Schedule("constant"))
    before = shared(strategy, steps=0, norm="group").arrays
    after = train(strategy, steps=1, config=config, norm="group").arrays
    moved = sum(np.sum((after[n] - before[n]) ** 2) for n in before if n.startswith("variable:"))
    assert np.sqrt(moved) == pytest.approx(1e-3, rel=0.01)


def test_the_running_average_has_batch_stats_too() -> None:
    averages = [shared(steps=n).arrays for n in range(3)]
    expected = {k: v for k, v in averages[0].items() if k.startswith("variable:")}
    for count in (1, 2):
        keep = min(0.9, count / (9 + count))  # (1 + t) / (10 + t), t steps before this one
        for name in expected:
            expected[name] = keep * expected[name] + (1 - keep) * averages[count][name]
    for name, value in expected.items():
        ours = averages[2][name.replace("variable:", "average:")]
        np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-6)
    assert any("moving_variance" in name for name in expected)


def losses(logits: Any, labels: Any, **changes: Any) -> np.ndarray:
    weights, several = changes.pop("class_weights", None), changes.pop("several", False)
    network = some_net()
    config = dataclasses.replace(BASE, **changes)
    state = TrainingState(network, config, tf.distribute.get_strategy(), 1)
    step = Step(network, state, config, class_weights=weights, several=several)
    return step.losses(tf.constant(logits, tf.float32), tf.constant(labels, tf.float32)).numpy()


def test_losses_are_keras_own() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 10)), rng.dirichlet(np.ones(10), 6)
    softmax = keras.losses.categorical_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(losses(logits, labels), softmax, rtol=1e-5)
    sigmoid = keras.losses.binary_crossentropy(labels, logits, from_logits=True)
    np.testing.assert_allclose(losses(logits, labels, loss="sigmoid"), sigmoid, rtol=1e-5)
    np.testing.assert_allclose(losses(logits, labels, several=True), 10 * sigmoid, rtol=1e-5)
    hard = keras.losses.binary_crossentropy((labels > 0.2).astype("float32"), logits, from_logits=True)
    np.testing.assert_allclose(losses(logits, labels, loss="sigmoid", target_threshold=0.2), hard, rtol=1e-5)


def test_class_weights_weigh_the_class() -> None:
    logits, labels, weights = np.zeros((10, 10)), np.eye(10), np.arange(10.0)
    np.testing.assert_allclose(losses(logits, labels, class_weights=weights), weights * np.log(10), rtol=1e-5)
