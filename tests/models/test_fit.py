"""`fit` of `rk.Model`: several replicas, XLA and each optimizer give what Keras's own `fit` gives on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import free_ports

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.optimizer import PureOptimizer
from resnet_keras.training.devices import make_strategy

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 80)
# Images that say their class, so that there is something to learn.
IMAGES = (RNG.normal(size=(80, 8, 8, 3)) + LABELS[:, None, None, None] / 5).astype("float32")
# Sums in another order: float32 has 1e-7, some hundred of which add up along the net and ten steps; Adam and LAMB
# divide by the size of a gradient, also of one that is hardly more than its rounding.
CLOSE: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-4}
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda **options: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.05, 12), momentum=0.9, nesterov=True, **options
    ),
    "adamw": lambda **options: keras.optimizers.AdamW(1e-2, global_clipnorm=0.5, use_ema=True, **options),
    "lamb": lambda **options: keras.optimizers.Lamb(1e-2, **options),
}


def made(
    strategy: str = "none",
    optimizer: Any = "sgd",
    *,
    plain: bool = False,
    xla: bool = False,
    policy: str = "float32",
    loss: Any = None,
    steps_per_execution: int = 1,
    regularizer: Any = None,
    **spec: Any,
) -> keras.Model:
    """A small net, compiled; `plain`: as a model of Keras's own class."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        with make_strategy(strategy).scope():
            keras.utils.set_random_seed(0)
            fields = {"widths": (8,), "blocks": (1,), "stem_width": 8, "shortcut": "B", "norm": "group", **spec}
            model = rk.build_cifar_resnet(8, input_shape=(8, 8, 3), classifier_activation=None, **fields)
            if regularizer:
                model.get_layer("logits").kernel_regularizer = regularizer
                model.get_layer("logits")._kernel.regularizer = regularizer
            if plain:
                model = keras.Model(model.inputs, model.outputs)
            chosen = OPTIMIZERS.get(optimizer, optimizer)()
            loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(chosen, loss, metrics=["accuracy"], jit_compile=xla, steps_per_execution=steps_per_execution)
    finally:
        keras.config.set_dtype_policy(before)
    return model


def fitted(*args: Any, count: int = 80, fit: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """Weights and history after two epochs of five steps."""
    model = made(*args, **options)
    own = {key: value[:count] if key == "sample_weight" else value for key, value in (fit or {}).items()}
    data: dict[str, Any] = {"batch_size": 16, "validation_data": (IMAGES[:count], LABELS[:count]), **own}
    history = model.fit(IMAGES[:count], LABELS[:count], epochs=2, shuffle=False, verbose=0, **data).history
    predicted = model.predict(IMAGES[:count], batch_size=16, verbose=0)
    assert predicted.shape == (count, 10)
    return [*model.get_weights(), predicted], history


def assert_same(one: Any, other: Any, **tolerance: Any) -> None:
    tolerance = tolerance or CLOSE
    for ours, theirs in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance)
    for name, values in one[1].items():
        np.testing.assert_allclose(values, other[1][name], err_msg=name, **tolerance)
    assert one[1]["loss"][-1] < one[1]["loss"][0]


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)])  # 12 s
def test_two_replicas_are_keras_own_fit(xla: bool) -> None:
    """Clipped by the norm of all gradients, averaged, with decoupled decay; the last batch leaves a replica empty."""
    theirs = fitted(optimizer="adamw", plain=True, count=65)
    assert_same(fitted("mirrored", "adamw", xla=xla, count=65), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True])
def test_one_replica_is_keras_own_fit(xla: bool) -> None:
    assert_same(fitted(optimizer="adamw", norm="batch", xla=xla), fitted(optimizer="adamw", norm="batch", plain=True))


SLOW: dict[str, dict[str, Any]] = {
    "sgd": {},
    "lamb": {"optimizer": "lamb"},
    "a smaller last batch": {"count": 71},
    "sample weights": {"fit": {"sample_weight": np.linspace(0, 2, 80)}},
    "class weights": {"fit": {"class_weight": {i: i / 5 for i in range(10)}}},
    "accumulated": {"optimizer": lambda: OPTIMIZERS["lamb"](gradient_accumulation_steps=2)},
    "averages put in": {"optimizer": lambda: OPTIMIZERS["adamw"](ema_overwrite_frequency=3)},
    "a layer's loss": {"regularizer": keras.regularizers.L2(0.1)},
    "a sum": {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
        "optimizer": lambda: keras.optimizers.SGD(1e-3),
        "count": 71,
    },
    "synchronised": {"norm": "sync_batch"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_each_option_of_fit_on_two_replicas(case: str) -> None:
    options = SLOW[case]
    assert_same(fitted("mirrored", xla=case != "synchronised", **options), fitted(plain=True, **options))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_two_replicas_are_one_with_and_without_xla(policy: str, optimizer: str) -> None:
    """In mixed precision each number is blurred by 8 or 11 bits: the losses are float32's, to percents."""
    alone = fitted(optimizer=optimizer)
    for xla in (False, True):
        spread = fitted("mirrored", optimizer, policy=policy, xla=xla)
        if policy == "float32":
            assert_same(spread, alone)
        np.testing.assert_allclose(spread[1]["loss"], alone[1]["loss"], rtol=0.05)


@pytest.mark.slow
def test_batch_norm_on_two_replicas_with_and_without_xla() -> None:
    assert_same(fitted("mirrored", norm="batch", xla=True), fitted("mirrored", norm="batch"))


def test_float16_skips_a_step_that_overflows() -> None:
    model = made(policy="mixed_float16")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = model.get_weights()
    model.train_on_batch(IMAGES[:8] * 1e6, LABELS[:8])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert float(model.optimizer.dynamic_scale) == model.optimizer.initial_scale / 2
    model.train_on_batch(IMAGES[:8], LABELS[:8])
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_replicas_drop_different_things() -> None:
    """The gradient of a sum of inputs is what was not dropped: twice it, once or never, over two replicas."""
    with make_strategy("mirrored").scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((64,))
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = rk.Model(inputs, dense(keras.layers.Dropout(0.5)(inputs)))
        model.compile(keras.optimizers.SGD(1.0), loss=lambda labels, predicted: -predicted)
    steps = [np.zeros(64)]
    for _ in range(2):
        model.fit(np.ones((2, 64), "float32"), np.zeros((2, 1), "float32"), batch_size=2, verbose=0)
        steps.append(np.asarray(dense.kernel)[:, 0])
    first, second = np.diff(steps, axis=0)
    assert set(first) == {0.0, 1.0, 2.0}
    assert (first != second).any()


def test_frozen_layers_stay_and_the_others_learn() -> None:
    model = made(optimizer="adamw")
    rk.freeze(model, "stage1")
    model.compile(OPTIMIZERS["adamw"](), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.fit(IMAGES, LABELS, batch_size=40, verbose=0)
    for weight in model.weights:
        frozen = weight.path.startswith(("stem", "stage1"))
        assert np.array_equal(weight.numpy(), before[weight.path]) == frozen, weight.path


@pytest.mark.parametrize("jit", [True, False, "auto"])
def test_a_saved_model_is_one_of_ours_and_compiles_as_before(jit: bool | str, tmp_path: Path) -> None:
    model = made()
    model.compile("sgd", "mse", jit_compile=jit)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, rk.Model)
    assert again.get_compile_config()["jit_compile"] == jit
    assert again._compiles() == (jit is True)  # no GPU here
    np.testing.assert_array_equal(again(IMAGES[:2]), model(IMAGES[:2]))


def test_a_loaded_float16_model_scales_its_loss(tmp_path: Path) -> None:
    model = made(policy="mixed_float16")
    model.train_on_batch(IMAGES[:8], LABELS[:8])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(again.train_on_batch(IMAGES[:8], LABELS[:8])[0])


def test_what_cannot_be_compiled_or_trained_is_refused() -> None:
    with pytest.raises(UsageError, match="synchronised norms.*give jit_compile=False"):
        fitted("mirrored", norm="sync_batch", xla=True)
    with pytest.raises(UsageError, match="steps_per_execution above 1 is for one replica"):
        fitted("mirrored", steps_per_execution=2)
    model = made()
    model.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(UsageError, match="has nothing to train"):
        model.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01, clipvalue=0.5),
        keras.optimizers.Adam(0.1, amsgrad=True, clipnorm=0.5),
        keras.optimizers.AdamW(0.1, use_ema=True),
        keras.optimizers.Nadam(0.1),
        keras.optimizers.Adamax(0.1),
        keras.optimizers.Adagrad(0.1),
        keras.optimizers.Adadelta(0.1),
        keras.optimizers.Adafactor(0.1),
        keras.optimizers.Ftrl(0.1),
        keras.optimizers.Lamb(0.1, loss_scale_factor=4.0),
        keras.optimizers.Lion(0.1, gradient_accumulation_steps=3),
        keras.optimizers.Muon(0.1),
        keras.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
        keras.optimizers.AdamW(0.1, use_ema=True, ema_overwrite_frequency=2, global_clipnorm=0.5),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1), initial_scale=8.0, dynamic_growth_steps=3),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_a_pure_step_is_the_optimizers_own(optimizer: Any) -> None:
    """Seven steps, one of which has a gradient that is not finite for the optimizer that minds it."""
    optimizer = type(optimizer).from_config(optimizer.get_config())
    start = [RNG.normal(size=shape).astype("float32") for shape in ((4, 3), (3,))]
    ours, theirs = ([keras.Variable(value, name=f"w{i}") for i, value in enumerate(start)] for _ in range(2))
    twin = type(optimizer).from_config(optimizer.get_config())
    twin.exclude_from_weight_decay(var_names=["w1"])
    optimizer.exclude_from_weight_decay(var_names=["w1"])
    optimizer.build(ours)
    twin.build(theirs)
    pure = PureOptimizer(optimizer)
    weights, state = ([tf.convert_to_tensor(v) for v in group] for group in (ours, pure.variables))
    for step in range(7):
        gradients = [tf.constant(RNG.normal(size=v.shape), tf.float32) for v in start]
        if step == 2 and isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            gradients[0] *= np.inf
        weights, state = pure(state, gradients, weights)
        twin.apply(gradients, theirs)
    for mine, other in zip([*weights, *state], [*theirs, *twin.variables], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    for variable, value in zip(ours, start, strict=True):
        np.testing.assert_array_equal(variable, value)  # a pure function moves none


WORKER = """
import json, os, sys

where, index, xla = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "xla"
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy() if index >= 0 else tf.distribute.get_strategy()
import keras
import numpy as np
import resnet_keras as rk

data = np.load(where)
with strategy.scope():
    keras.utils.set_random_seed(0)
    fields = {"widths": (8, 16), "blocks": (1, 1), "stem_width": 8, "shortcut": "B", "norm": "group"}
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 3), classifier_activation=None, **fields)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2, global_clipnorm=0.5), loss, metrics=["accuracy"], jit_compile=xla)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
dataset = tf.data.Dataset.from_tensor_slices((data["images"], data["labels"])).batch(16).with_options(options)
history = model.fit(dataset, epochs=2, verbose=0, validation_data=dataset).history
print(json.dumps({**history, "weight": float(sum(np.abs(w).sum() for w in model.get_weights()))}))
"""


@pytest.mark.slow  # 60 s: five processes that import TensorFlow
def test_two_workers_give_the_one_process_result(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES[:65], labels=LABELS[:65])

    def start(index: int, ports: list[int], xla: str) -> subprocess.Popen[str]:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env = {**os.environ, **({"TF_CONFIG": json.dumps(cluster)} if index >= 0 else {})}
        command = [sys.executable, "-c", WORKER, str(tmp_path / "data.npz"), str(index), xla]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ends_of(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
        said = [process.communicate(timeout=200) for process in processes]
        assert not any(process.returncode for process in processes), said
        return [json.loads(out.splitlines()[-1]) for out, _ in said]

    [alone] = ends_of([start(-1, [], "no")])
    for xla in ("no", "xla"):
        ports = free_ports(2)
        for end in ends_of([start(index, ports, xla) for index in (0, 1)]):
            for name, values in alone.items():
                np.testing.assert_allclose(end[name], values, rtol=1e-3, err_msg=name)
