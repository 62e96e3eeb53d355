"""Whole runs: repeatability, MirroredStrategy, XLA, what a run starts from, refusals, and the run folder."""

import csv
import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import TINY

import resnet_keras as rk
from resnet_keras.config.train import Augmentation, Optimizer, Schedule, TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.inference.evaluate import Evaluator
from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.devices import describe, make_strategy, use_xla
from resnet_keras.training.phases import phases_of
from resnet_keras.training.record import COLUMNS, Record
from resnet_keras.training.reporters import ModelFiles, Report
from resnet_keras.training.setup import TrainingSetup, make_setup
from resnet_keras.training.trainer import TrainResult, run


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table(folder)]


@pytest.fixture(scope="module")
def tiny_run(tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny net, three epochs long."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return run(dataclasses.replace(tiny, epochs=3, run_dir=str(folder))).run_dir


DROPS = {**TINY, "stochastic_depth": 0.3, "dropout": 0.2, "antialias": True}


@pytest.fixture(scope="module")
def mirrored_run(tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run on two replicas, of a net that drops branches and features."""
    folder = tmp_path_factory.mktemp("runs") / "mirrored"
    return run(dataclasses.replace(tiny, strategy="mirrored", model_options=DROPS, run_dir=str(folder)))


@pytest.mark.slow  # 6 s: test_step compares replicas with one device
def test_mirrored_with_ordinary_norm_trains_and_evaluates(tiny: TrainConfig, mirrored_run: TrainResult) -> None:
    assert mirrored_run.metrics["environment"]["devices"] == "MirroredStrategy on 2 CPUs"
    rows = table(mirrored_run.run_dir)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    alone = rk.evaluate(mirrored_run.run_dir, data_dir=tiny.data_dir)
    assert alone.loss == pytest.approx(mirrored_run.metrics["loss"], rel=1e-5)


def test_a_batch_that_cannot_be_shared_evenly_is_evaluated_whole(tiny: TrainConfig) -> None:
    strategy = make_strategy("mirrored")
    network = make_setup(tiny, strategy).network
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), "uint8")
    batches = tf.data.Dataset.from_tensor_slices((images, np.eye(10, dtype="float32")[:5])).batch(4)  # 4, then 1
    labels = tuple("0123456789")
    two = Evaluator(network, labels, strategy)(batches)
    one = Evaluator(network, labels)(batches)
    assert two.examples == 5
    assert two.loss == pytest.approx(one.loss, rel=1e-5)


def test_test_flip_is_the_mean_of_both_sides(tiny: TrainConfig) -> None:
    network = make_setup(tiny, make_strategy("none")).network
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), "uint8")
    one_hot = np.eye(10, dtype="float32")[:6]
    batches = tf.data.Dataset.from_tensor_slices((images, one_hot)).batch(6)
    both = (network.predict(images, verbose=0) + network.predict(images[:, :, ::-1], verbose=0)) / 2
    expected = -np.log(np.sum(both * one_hot, axis=1)).mean()
    result = Evaluator(network, tuple("0123456789"), flip=True)(batches)
    assert result.loss == pytest.approx(expected, rel=1e-5)


def test_devices(quick: TrainConfig) -> None:
    one, two = make_strategy("none"), make_strategy("mirrored")
    assert make_strategy("auto") is one  # no GPU here
    assert describe(one) == "1 CPU"
    assert not use_xla(quick, one)
    assert use_xla(dataclasses.replace(quick, xla="on"), one)
    assert use_xla(dataclasses.replace(quick, xla="on"), two)
    meets = dataclasses.replace(quick, xla="on", model_options={"norm": "sync_batch"})
    assert use_xla(meets, one)
    with pytest.raises(UsageError, match="xla on cannot compile norm sync_batch, in which replicas meet"):
        use_xla(meets, two)


def compiled_functions(setup: TrainingSetup) -> int:
    """The functions in the graph of the step that XLA must compile."""
    batches, step = setup.batches(phases_of(setup.config)[0], 0, 1), cast(Any, setup.step.runner())
    graph = step.get_concrete_function(batches, tf.constant(1)).graph
    return sum(function.attr["_XlaMustCompile"].b for function in graph.as_graph_def().library.function)


def test_xla_compiles_the_step_and_trains_as_without(tiny: TrainConfig, tiny_run: Path, tmp_path: Path) -> None:
    setups: list[TrainingSetup] = []

    def keep(setup: TrainingSetup, record: Record) -> RunCallback:
        setups.append(setup)
        return RunCallback(setup, record)

    config = dataclasses.replace(tiny, xla="on", epochs=3, run_dir=str(tmp_path / "run"))
    result = run(config, reporters=[keep])
    assert compiled_functions(setups[0]) == 2, "backward and update"
    assert compiled_functions(make_setup(tiny, make_strategy("none"))) == 0
    assert result.metrics["environment"]["xla"] == "on"
    without = table(tiny_run)
    assert json.loads((tiny_run / "metrics.json").read_text())["environment"]["xla"] == "off"
    for row, other in zip(table(result.run_dir), without, strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-3)


def test_one_seed_one_result_another_seed_another(tiny: TrainConfig, tiny_run: Path, tmp_path: Path) -> None:
    same = run(dataclasses.replace(tiny, epochs=3, run_dir=str(tmp_path / "same")))
    other = run(dataclasses.replace(tiny, epochs=3, run_dir=str(tmp_path / "other"), seed=1))
    assert without_seconds(same.run_dir) == without_seconds(tiny_run)
    assert without_seconds(other.run_dir) != without_seconds(tiny_run)
    first = keras.models.load_model(tiny_run / "model.keras")
    for a, b in zip(first.get_weights(), same.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_run_folder(digits_run: Path, quick: TrainConfig) -> None:
    names = {str(path.relative_to(digits_run)) for path in digits_run.rglob("*") if path.is_file()}
    expected = {"config.json", "metrics.csv", "metrics.json", "model.keras", "report.html"}
    assert expected <= names
    assert "checkpoints/best.keras" not in names  # the last epoch is the result, never the best by test
    assert {name.split("/")[1] for name in names if name.startswith("tensorboard/")} == {"train", "test", "result"}
    assert not [name for name in names if "part" in name]
    rows = table(digits_run)
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["epoch"], row["split"]) for row in rows] == [("1", "test"), ("2", "test")]
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["accuracy"] == float(rows[-1]["val_accuracy"])
    assert metrics["examples"] == 360
    assert 0 < metrics["ece"] < 1
    assert metrics["parameters"] == rk.complexity(rk.load_model(digits_run)).trainable_parameters
    assert metrics["environment"]["tensorflow"] == tf.__version__
    assert not metrics["interrupted"]
    card = next(layer.card for layer in rk.load_model(digits_run).layers if layer.name == "preprocessing")
    assert card.metrics["accuracy"] == metrics["accuracy"]
    assert (card.data, card.recipe, card.network) == ("digits", "digits", "cifar_resnet20")
    page = (digits_run / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page


def test_epochs_may_go_untested_but_the_last(tiny: TrainConfig, tiny_run: Path, tmp_path: Path) -> None:
    """The weights do not depend on how often they are tested."""
    folder = tmp_path / "seldom"
    config = dataclasses.replace(tiny, epochs=3, test_every=2, run_dir=str(folder))
    result = run(config, reporters=[ModelFiles, Report])
    seldom, often = table(folder), table(tiny_run)
    assert [row["val_accuracy"] != "" for row in seldom] == [False, True, True]
    assert [row["val_accuracy"] for row in seldom[1:]] == [row["val_accuracy"] for row in often[1:]]
    assert [row["loss"] for row in seldom] == [row["loss"] for row in often]
    assert result.metrics["accuracy"] == float(often[-1]["val_accuracy"])
    assert "data:image/png;base64," in (folder / "report.html").read_text()


def test_tensorboard_has_the_scalars(digits_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = set()
    for part in ("train", "test"):
        events = EventAccumulator(str(digits_run / "tensorboard" / part))
        events.Reload()
        tags |= {f"{part}/{tag}" for tag in events.Tags()["tensors"]}
    wanted = {"train/epoch_loss", "train/epoch_accuracy", "train/epoch_learning_rate"}
    assert wanted | {"test/epoch_loss", "test/epoch_accuracy"} <= tags


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_trains_and_exports(tiny: TrainConfig, precision: str, tmp_path: Path) -> None:
    before = keras.config.dtype_policy().name
    result = run(dataclasses.replace(tiny, precision=precision, run_dir=str(tmp_path / "run")))
    assert keras.config.dtype_policy().name == before
    rows = table(result.run_dir)
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert result.model.get_layer("stage1_block1").dtype_policy.name == precision
    assert rk.export_servable(result.run_dir, tmp_path / "servable").name == "1"


def test_weights_start_a_run(tiny: TrainConfig, tiny_run: Path, tmp_path: Path) -> None:
    low_rate = Optimizer(learning_rate=1e-9)
    config = dataclasses.replace(tiny, weights=str(tiny_run), optimizer=low_rate, epochs=1)
    result = run(dataclasses.replace(config, run_dir=str(tmp_path / "run")))
    trained = rk.load_model(tiny_run).get_layer("logits").get_weights()
    np.testing.assert_allclose(result.model.get_layer("logits").get_weights()[0], trained[0], atol=1e-6)
    with pytest.raises(UsageError, match="do not fit cifar_resnet32"):
        run(dataclasses.replace(config, model="cifar_resnet32", model_options={**TINY, "blocks": "2,1,1"}))


@pytest.mark.slow  # 4 s: the test of fine-tuning below has a new head too
def test_weights_of_other_classes_keep_all_but_the_head(tiny: TrainConfig, image_folder: Path, tmp_path: Path) -> None:
    colour = rk.build_cifar_resnet(20, classes=10, input_shape=(16, 16, 3), **TINY)
    colour.save(tmp_path / "colour.keras")
    config = dataclasses.replace(
        tiny,
        data=str(image_folder),
        image_size=16,
        weights=str(tmp_path / "colour.keras"),
        batch_size=4,
        epochs=1,
        optimizer=Optimizer(learning_rate=1e-9),
        run_dir=str(tmp_path / "run"),
    )
    model = run(config).model
    np.testing.assert_allclose(
        model.get_layer("stage1_block1").get_weights()[0], colour.get_layer("stage1_block1").get_weights()[0], atol=1e-6
    )
    assert model.output_shape == (None, 2)


class Interrupt(RunCallback):
    """Ctrl-C after 14 steps."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.record.step == 14:
            os.kill(os.getpid(), signal.SIGINT)


def test_interruption_leaves_a_usable_run(tiny: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = dataclasses.replace(tiny, run_dir=str(folder))
    with pytest.raises(KeyboardInterrupt, match="run"):
        run(config, reporters=[ModelFiles, Report, Interrupt])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["interrupted"]
    assert metrics["epochs"] == 1
    assert rk.evaluate(folder, data_dir=tiny.data_dir).loss == pytest.approx(metrics["loss"], rel=1e-6)
    assert "Interrupted before its end" in (folder / "report.html").read_text()


def test_divergence_is_said_and_keeps_the_last_sound_model(tiny: TrainConfig, tmp_path: Path) -> None:
    wild = Optimizer(learning_rate=1e30)
    config = dataclasses.replace(tiny, optimizer=wild, schedule=Schedule("constant"), run_dir=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="training diverged; lower --learning-rate"):
        run(config, reporters=[ModelFiles])
    assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet51"}, "unknown model"),
        ({"data": "no_such_data"}, "no such folder and no TensorFlow data set"),
        ({"batch_size": 1438}, "larger than the 1437 training images"),
        ({"strategy": "mirrored", "batch_size": 63}, "cannot be divided over MirroredStrategy on 2 CPUs"),
        ({"accumulation": 5, "batch_size": 64}, "cannot be divided over 1 CPU, in 5 parts each"),
        ({"freeze": "stem", "unfreeze": {"stage9": 0.5}}, "unknown part of cifar_resnet20 'stage9'"),
        ({"optimizer": Optimizer(no_decay=("head",))}, "unknown layer in no_decay 'head'"),
        ({"augmentation": Augmentation(lighting=0.1)}, "lighting"),
        ({"augmentation": Augmentation("pad", 9)}, "pad 9 is more than the 8 pixels"),
        ({"augmentation": Augmentation(mixup=0.2), "batch_size": 63}, "odd|even"),
        ({"model_options": {"shortcut": "Q"}}, "unknown shortcut"),
        ({"model": "resnet50", "model_options": {}}, "8x8 is too small"),
        ({"weights": "/nowhere"}, "no file of weights or run folder at /nowhere"),
        ({"weights": "imagenet"}, "there are no 'imagenet' weights for cifar_resnet20 as it is built"),
        ({"freeze": "logits"}, "with freeze=logits nothing is trainable"),
        ({"freeze": "stage4"}, "unknown part of cifar_resnet20 'stage4'; did you mean|unknown part .* choose from"),
        ({"model": "vgg11", "model_options": {}}, "8x8 is too small"),
        ({"model": "vgg11", "model_options": {"se_ratio": 0.1}}, "unknown field of --model-options 'se_ratio'"),
    ],
    ids=str,
)
def test_refusals_come_before_anything_is_written(
    tiny: TrainConfig, changes: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        rk.train(dataclasses.replace(tiny, run_dir=str(tmp_path / "run"), **changes), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(quick: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty; give another --run-dir"):
        rk.train(dataclasses.replace(quick, run_dir=str(tmp_path)), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_plain_nets_train_by_a_recipe_with_zero_init_gamma(tiny: TrainConfig, tmp_path: Path) -> None:
    """Without a shortcut, a gamma of zero would stop the signal."""
    config = dataclasses.replace(tiny, model="cifar_plain20", epochs=1, run_dir=str(tmp_path / "run"))
    assert config.zero_init_gamma
    model = run(dataclasses.replace(config, augmentation=Augmentation(flip=True))).model
    assert all(np.all(v.numpy()) for v in model.weights if v.path.endswith("gamma"))


@pytest.mark.slow  # 2 s: test_data has the crops
def test_resized_crops_of_images_in_memory(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        tiny, augmentation=Augmentation("resized"), image_size=12, epochs=1, run_dir=str(tmp_path / "run")
    )
    assert run(config).model.input_shape == (None, 12, 12, 1)


def test_a_run_takes_over_the_normalisation_it_starts_from(tiny: TrainConfig, tmp_path: Path) -> None:
    card = rk.ModelCard(mean=(0.1,), std=(0.7,))
    model = rk.build_cifar_resnet(20, input_shape=(8, 8, 1), include_preprocessing=card, **TINY)
    model.save(tmp_path / "start.keras")
    config = dataclasses.replace(tiny, weights=str(tmp_path / "start.keras"), epochs=1, run_dir=str(tmp_path / "run"))
    layer = run(config).model.get_layer("preprocessing")
    assert (layer.card.mean, layer.card.std) == ((0.1,), (0.7,))


def test_fine_tuning_leaves_what_is_frozen_and_makes_a_new_head(tiny: TrainConfig, tmp_path: Path) -> None:
    start = rk.build_cifar_resnet(20, input_shape=(8, 8, 1), classes=7, **TINY)
    rk.save_weights(start, tmp_path / "start.npz")
    config = dataclasses.replace(
        tiny, weights=str(tmp_path / "start.npz"), freeze="stage2", epochs=1, run_dir=str(tmp_path / "run")
    )
    config = dataclasses.replace(config, optimizer=Optimizer(0.05, layer_decay=0.7))
    model = run(config).model
    assert model.output_shape == (None, 10)
    for layer in start.layers:
        if layer.name.startswith(("stem", "stage1", "stage2")):
            for a, b in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    moved = model.get_layer("stage3_block1").get_weights()[0] - start.get_layer("stage3_block1").get_weights()[0]
    assert np.abs(moved).max() > 0


@pytest.mark.slow
def test_what_is_dropped_follows_the_seed(tiny: TrainConfig, tmp_path: Path) -> None:
    losses = []
    for name in ("one", "two"):
        config = dataclasses.replace(tiny, model_options=DROPS, run_dir=str(tmp_path / name))
        losses.append(run(config).metrics["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] < 2.3


@pytest.mark.slow  # 6 s: on one device in the test before, and that replicas drop different things in test_step
def test_what_replicas_drop_follows_the_seed(tiny: TrainConfig, mirrored_run: TrainResult, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, strategy="mirrored", model_options=DROPS, run_dir=str(tmp_path / "again"))
    loss = run(config).metrics["loss"]
    assert loss == pytest.approx(mirrored_run.metrics["loss"], rel=1e-3)
    assert loss < 2.3


@pytest.mark.parametrize(
    "options",
    [
        {"classes": 5},
        {"name": "x"},
        {"include_top": False},
        {"se_ratio": "abc"},
        {"blocks": 3},
        {"widths": (0, 1, 2)},
        {"activation": "foo"},
        {"stem": "deep", "stem_width": 1},
    ],
    ids=str,
)
def test_model_options_are_fields_of_a_spec_with_their_types(quick: TrainConfig, options: dict, tmp_path: Path) -> None:
    config = dataclasses.replace(quick, model_options=options, run_dir=str(tmp_path / "run"))
    with pytest.raises(UsageError) as error:
        rk.train(config, quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_may_be_validated_on_images_held_out(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, validation=0.2, epochs=1, run_dir=str(tmp_path / "run"))
    result = run(config, reporters=[Report])
    figures = result.metrics
    assert (figures["split"], figures["examples"], figures["validation"]["examples"]) == ("test", 360, 287)
    assert "Test accuracy" in (tmp_path / "run" / "report.html").read_text()
    assert rk.model_card(result.model).metrics["examples"] == 360


class Spoil(RunCallback):
    """Ruins the network from the third epoch on: what follows is worse."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch >= 2:
            self.setup.network.set_weights([0 * weight for weight in self.setup.network.get_weights()])


def test_the_result_is_the_best_epoch_and_patience_ends_a_run(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, validation=0.2, patience=2, epochs=9, run_dir=str(tmp_path / "run"))
    result = run(config, reporters=[Spoil, ModelFiles])
    rows = table(tmp_path / "run")
    assert {row["split"] for row in rows} == {"validation"}
    best = result.metrics["best_epoch"]
    assert best <= 2
    assert len(rows) == best + 2
    kept = rk.load_model(tmp_path / "run" / "checkpoints" / "best.keras")
    for model in (result.model, rk.load_model(tmp_path / "run")):
        for ours, theirs in zip(model.get_weights(), kept.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    row = rows[best - 1]
    assert result.metrics["validation"]["accuracy"] == float(row["val_accuracy"])
    assert rk.evaluate(tmp_path / "run").accuracy == result.metrics["accuracy"]
    with pytest.raises(UsageError, match="patience needs validation images, and digits has none; give --validation"):
        run(dataclasses.replace(tiny, patience=2, run_dir=str(tmp_path / "other")))


def test_a_folder_is_validated_unless_it_is_not_to_be(
    tiny: TrainConfig, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(tiny, data=str(image_folder), image_size=16, batch_size=4, epochs=1)
    metrics = run(dataclasses.replace(config, run_dir=str(tmp_path / "a")), quiet=False).metrics
    assert metrics["validation"]["examples"] == 2  # one of each class
    assert "training, 2 validation and" in capsys.readouterr().err
    metrics = run(dataclasses.replace(config, validation=0.0, run_dir=str(tmp_path / "b"))).metrics
    assert "validation" not in metrics


def test_a_run_to_compare_does_not_look_at_the_test_split(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, validation=0.2, final_test=False, epochs=1, run_dir=str(tmp_path / "run"))
    result = run(config, reporters=[Report])
    assert (result.metrics["split"], result.metrics["examples"]) == ("validation", round(0.2 * 1437))
    assert "Validation accuracy" in (tmp_path / "run" / "report.html").read_text()
    assert not rk.model_card(result.model).metrics
    assert not (tmp_path / "run" / "checkpoints" / "best.keras").exists()
