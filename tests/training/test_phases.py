"""What changes along a run or is done around it: sizes, freezing, recomputation, batch_stats, weights of classes."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_keras as rk
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import Augmentation, Optimizer, TrainConfig
from resnet_keras.errors import HostLost
from resnet_keras.models.layers import Recomputable, leaves
from resnet_keras.training import input as training_input
from resnet_keras.training.batch_stats import recompute_batch_stats
from resnet_keras.training.devices import make_strategy
from resnet_keras.training.phases import Phase, phases_of, set_trainable, view_of_size
from resnet_keras.training.setup import make_setup
from resnet_keras.training.tensorboard import TensorBoardLog, hparams_of
from resnet_keras.training.trainer import run

NONE = "none"


def test_phases_cut_a_run_where_something_changes() -> None:
    config = TrainConfig(epochs=10, train_sizes=(16, 24, 32), freeze="stage2", unfreeze={"stage2": 0.5, "stem": 0.8})
    assert phases_of(config) == [
        Phase(0, 3, 16, ()),
        Phase(3, 5, 24, ()),
        Phase(5, 6, 24, ("stage2",)),
        Phase(6, 8, 32, ("stage2",)),
        Phase(8, 10, 32, ("stage2", "stem")),
    ]
    assert phases_of(TrainConfig(epochs=3)) == [Phase(0, 3, None, ())]


def test_a_view_of_another_size_has_the_same_layers() -> None:
    model = rk.create_model("cifar_resnet20")
    view = view_of_size(model, 20)
    assert view.input_shape == (None, 20, 20, 3)
    assert view_of_size(model, 32) is model
    assert all(one is other for one, other in zip(view.weights, model.weights, strict=True))
    images = np.random.default_rng(0).normal(size=(2, 20, 20, 3)).astype("float32")
    other = rk.create_model("cifar_resnet20", input_shape=(20, 20, 3))
    other.set_weights(model.get_weights())
    np.testing.assert_allclose(view(images), other(images), rtol=1e-5)


@pytest.mark.parametrize("freeze_norms", [False, True])
def test_parts_learn_from_their_time_on_with_their_norms(freeze_norms: bool) -> None:
    model = rk.create_model("cifar_resnet20", blocks=(1, 1, 1))
    config = TrainConfig(epochs=10, freeze="stage2", unfreeze={"stage2": 0.3, "stem": 0.6}, freeze_norms=freeze_norms)
    last = {"stage3_block1", "logits"}
    parts = [last, {"stage2_block1", *last}, {"stem", "stage1_block1", "stage2_block1", *last}]
    for phase, expected in zip(phases_of(config), parts, strict=True):
        set_trainable(model, config, phase)
        assert {variable.path.split("/")[0] for variable in model.trainable_variables} == expected
        moving = {path.split("/")[0] for path, layer in leaves(model) if path.endswith("norm") and layer.trainable}
        assert moving == (set() if freeze_norms else expected - {"logits"})


def test_a_run_in_phases(tiny: TrainConfig, tmp_path: Path) -> None:
    """Small images first, half of the net frozen until the second epoch; at the end all of it has moved."""
    config = dataclasses.replace(
        tiny,
        freeze="stage1",
        unfreeze={"stem": 0.5},
        train_sizes=(6, 8),
        optimizer=Optimizer(0.05, layer_decay=0.9),
        run_dir=str(tmp_path / "run"),
    )
    start = make_setup(config, make_strategy(NONE)).network.get_weights()
    model = run(config).model
    for before, variable in zip(start, model.weights, strict=True):
        assert not np.array_equal(before, variable.numpy()), variable.path


def test_freeze_norms_leaves_all_of_them(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, freeze_norms=True, epochs=1, run_dir=str(tmp_path / "run"))
    model = run(config).model
    for variable in model.weights:
        if variable.path.endswith("moving_mean"):
            assert not np.any(variable.numpy()), variable.path


@pytest.mark.parametrize("strategy", [NONE, "mirrored"])
def test_recomputed_batch_stats_are_those_of_all_the_images(tiny: TrainConfig, strategy: str) -> None:
    """The first norm sees the first convolution alone, whose output for all images can be computed at once."""
    config = dataclasses.replace(tiny, precise_bn=1400, augmentation=Augmentation("none"), strategy=strategy)
    setup = make_setup(config, make_strategy(strategy))
    recompute_batch_stats(setup)
    setup.state.sync_batch_stats()
    network, images = setup.network, setup.source.train.images  # pyright: ignore[reportAttributeAccessIssue]
    stem: Any = network.get_layer("stem")
    maps = stem.layers[0](network.get_layer("preprocessing")(images)).numpy()
    norm = next(layer for layer in stem.layers if layer.name == "norm")
    # An epoch drops its last, incomplete batch: 29 of 1,437 images are missing.
    np.testing.assert_allclose(setup.state.value_of(norm.moving_mean), maps.mean((0, 1, 2)), atol=0.02)
    np.testing.assert_allclose(setup.state.value_of(norm.moving_variance), maps.var((0, 1, 2)), rtol=0.03)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("cifar_resnet20", "float32"),
        pytest.param("cifar_resnet20", "mixed_bfloat16", marks=pytest.mark.slow),  # 3 s, as the next
        pytest.param("cifar_preact_resnet164", "float32", marks=pytest.mark.slow),
        pytest.param("cifar_preact_resnet164", "mixed_bfloat16", marks=pytest.mark.slow),
        ("cifar_densenet_bc_100_12", "float32"),
        pytest.param("cifar_densenet_bc_100_12", "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_recomputed_blocks_have_the_same_gradients_and_count_once(name: str, precision: str) -> None:
    options: dict[str, Any] = (
        {"layers": (2, 2, 2), "layer_dropout": 0.2}
        if "densenet" in name
        else {"blocks": (1, 1, 1), "stochastic_depth": 0.3, "se_ratio": 0.25}
    )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        keras.utils.set_random_seed(0)
        model = rk.create_model(name, input_shape=(16, 16, 3), classifier_activation=None, **options)
    finally:
        keras.config.set_dtype_policy(before)
    images = tf.random.stateless_normal((8, 16, 16, 3), (0, 1))
    start = [variable.numpy() for variable in model.variables]
    ends = []
    for rematerialize in (False, True):
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        for layer in model.layers:
            if isinstance(layer, Recomputable):
                layer.rematerialize = rematerialize

        @tf.function
        def gradients() -> list[Any]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.cast(model(images, training=True), tf.float32) ** 2)
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

        ends.append([g.numpy() for g in gradients()] + [v.numpy() for v in model.non_trainable_variables])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    assert any(isinstance(layer, Recomputable) and layer.rematerialize for layer in model.layers)


@pytest.mark.slow  # 5 s: the gradients of each block are compared above
def test_recomputation_changes_no_result(tiny: TrainConfig, tmp_path: Path) -> None:
    results = []
    for flag in (False, True):
        config = dataclasses.replace(tiny, rematerialize=flag, epochs=1, run_dir=str(tmp_path / str(flag)))
        results.append(run(config).metrics["loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_tensorboard_shows_the_run(tiny: TrainConfig, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = dataclasses.replace(tiny, epochs=1, run_dir=str(tmp_path / "run"), profile="2:4")
    run(config, reporters=[TensorBoardLog])
    tags, plugins = {}, set[tuple[str, str]]()
    for part in ("train", "test", "result"):
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / part))
        events.Reload()
        tags[part] = set(events.Tags()["tensors"])
        plugins |= {(plugin, part) for plugin in ("hparams", "images", "scalars") if _has(events, plugin)}
    stages = {"stem", "stage1", "stage2", "stage3", "logits"}
    assert {f"{kind}_norm/{stage}" for kind in ("weight", "gradient") for stage in stages} <= tags["train"]
    assert {"learning_rate", "running_loss", "batch as the network sees it"} <= tags["train"]
    # HParams has a column for each tag beside the hyperparameters.
    assert {tag for tag in tags["result"] if not tag.startswith("_hparams_")} == {"test_accuracy", "test_loss"}
    assert [part for plugin, part in plugins if plugin == "hparams"] == ["result"]
    (session,) = events.PluginTagToContent("hparams").values()  # of the last part
    assert f"run ({tmp_path})".encode() in session
    assert {"epoch_loss", "epoch_accuracy", "confusion"} <= tags["test"]
    assert {plugin for plugin, _ in plugins} == {"hparams", "images", "scalars"}
    assert list((tmp_path / "run" / "tensorboard").rglob("*.xplane.pb")), "no profile"


def test_hparams_are_few_enough_to_leave_the_metrics_in_sight(tiny: TrainConfig) -> None:
    recipe_as_it_is = hparams_of(recipe("digits"))
    assert recipe_as_it_is == {"model": "cifar_resnet20", "epochs": 12, "batch_size": 64, "learning_rate": 0.1}
    changed = hparams_of(dataclasses.replace(tiny, label_smoothing=0.1, run_dir="somewhere"))
    assert set(changed) == {"model", "epochs", "batch_size", "learning_rate", "model_options", "label_smoothing"}


def _has(events: Any, plugin: str) -> bool:
    try:
        return bool(events.PluginTagToContent(plugin))
    except KeyError:
        return False


def test_batches_from_a_data_service_are_those_of_the_run(tiny: TrainConfig, tmp_path: Path) -> None:
    """A dispatcher and a worker on this machine: each batch comes once, and the run is as good."""
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1]))
    config = dataclasses.replace(tiny, run_dir=str(tmp_path / "run"), data_service=dispatcher.target, epochs=2)
    setup = make_setup(config, make_strategy(NONE))
    plain = make_setup(tiny, make_strategy(NONE))
    phase = phases_of(config)[0]
    several = [itertools.islice(p.batches(phase, 0, 11), 11) for p in (plain, setup)]
    ours, theirs = ([images.numpy().tobytes() for images, _ in batches] for batches in several)
    assert len(ours) == 11
    assert sorted(ours) == sorted(theirs)
    assert run(config).metrics["epochs"] == 2
    del worker


def test_a_run_does_not_wait_for_ever_for_a_data_service(
    tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dispatcher is there, and no worker."""
    dispatcher = tf.data.experimental.service.DispatchServer()
    config = dataclasses.replace(tiny, run_dir=str(tmp_path / "run"), data_service=dispatcher.target)
    monkeypatch.setattr(training_input, "BATCH_PATIENCE", 2.0)
    with pytest.raises(HostLost, match=f"no batch has come from the data service {dispatcher.target}"):
        run(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet1202", "cifar_preact_resnet1001"])
def test_a_thousand_layers_train(name: str) -> None:
    """A batch of four, each block recomputed, in a process of its own; the benchmark says what memory it takes."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--model", name, "--batch", "4", "--one"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss" in done.stdout
