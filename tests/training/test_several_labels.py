"""Several labels an image: from a table or arrays to a run, its file, its servable and the commands."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, f1_score
from small import TINY

import resnet_keras as rk
from resnet_keras.cli.main import main
from resnet_keras.config.table import read_table
from resnet_keras.config.train import Augmentation, TrainConfig
from resnet_keras.data.format import image_format
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import hold_out
from resnet_keras.errors import UsageError
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.servable import manifest_of
from resnet_keras.inference.evaluate import evaluate
from resnet_keras.models.graph import head_of
from resnet_keras.training.given import Given
from resnet_keras.training.trainer import run

LABELS = ("blue", "green", "red")


def json_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def scores_of(folder: Path, table: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """What the network of a run gives the images of a split, one by one, and what they have."""
    part: Any = getattr(hold_out(open_source(str(table)), 0.3), split)
    model = rk.load_model(folder)
    prepare = image_format(model).evaluation_transform
    images = tf.stack([prepare(tf.io.read_file(path)) for path in part.paths])
    return np.asarray(model(images)), part.targets


def test_the_figures_are_scikit_learns(several_run: Path, several_table: Path) -> None:
    metrics = json.loads((several_run / "metrics.json").read_text())
    scores, targets = scores_of(several_run, several_table, "test")
    assert metrics["mean_average_precision"] == pytest.approx(average_precision_score(targets, scores), abs=1e-6)
    assert metrics["mean_average_precision"] > 0.75, "by chance it is a third"
    assert metrics["loss"] == pytest.approx(
        3 * float(np.mean(keras.losses.binary_crossentropy(targets.astype("float32"), scores))), rel=1e-3
    )
    card = rk.model_card(rk.load_model(several_run))
    assert card.labels == LABELS
    assert metrics["accuracy"] == pytest.approx(((scores >= np.array(card.thresholds, "float32")) == targets).mean())
    assert "top5_accuracy" not in metrics


def test_thresholds_are_the_best_on_validation(several_run: Path, several_table: Path) -> None:
    scores, targets = scores_of(several_run, several_table, "validation")
    thresholds = rk.model_card(rk.load_model(several_run)).thresholds
    for own, target, threshold in zip(scores.T, targets.T, thresholds, strict=True):
        best = max(f1_score(target, own >= level) for level in own)
        assert f1_score(target, own >= threshold) == pytest.approx(best)
    assert len(set(thresholds)) == 3
    metrics = json.loads((several_run / "metrics.json").read_text())
    rows = read_table(several_run)
    chosen = rows[metrics["best_epoch"] - 1]
    assert chosen["val_mean_average_precision"] == max(row["val_mean_average_precision"] for row in rows)
    assert metrics["validation"]["mean_average_precision"] == pytest.approx(chosen["val_mean_average_precision"])


def test_the_network_has_sigmoids_and_no_softmax(several_run: Path) -> None:
    model = rk.load_model(several_run)
    assert head_of(model).activation == "sigmoid"
    scores = model(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), "uint8")).numpy()
    assert not np.allclose(scores.sum(-1), 1)


# 3 s each; int8 is exported below.
@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(one, marks=pytest.mark.slow) for one in ("bfloat16", "int8"))]
)
def test_a_servable_says_which_labels_are_given(
    several_run: Path, several_table: Path, tmp_path: Path, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (256, 16, 16, 3), "uint8") if dtype == "int8" else None
    folder = rk.export_servable(
        several_run, tmp_path / "several", dtype=dtype, calibration_data=data, top_k=2, max_accuracy_loss=10
    )
    files = [several_table.parent / f"{i}.png" for i in range(12)]
    found = rk.predict(folder, files, top_k=2)
    ours = rk.predict(several_run, files, top_k=2)
    thresholds: dict[str, float] = dict(zip(LABELS, manifest_of(folder)["card"]["thresholds"], strict=True))
    for one, other in zip(found, ours, strict=True):
        assert one.above is not None
        assert one.above == tuple(
            score >= np.float32(thresholds[label]) for label, score in zip(one.labels, one.scores, strict=True)
        )
        if dtype == "float32":
            assert (one.labels, one.above) == (other.labels, other.above)
            assert one.scores == pytest.approx(other.scores, abs=1e-5)
    if dtype == "float32":
        assert {given for one in found for given in one.above or ()} == {True, False}
    bad = run_servable(folder, {"image_bytes": {"image_bytes": [files[0].read_bytes(), b"no image"]}})["image_bytes"]
    assert not bad["above"][1].any()
    assert manifest_of(folder)["head"] == "sigmoid"
    explained = run_servable(folder, {"explain": {"image_bytes": [files[0].read_bytes()]}})["explain"]
    assert explained["above"].tolist() == [list(found[0].above or ())]


def test_int8_is_proved_by_decisions(several_run: Path, several_table: Path, tmp_path: Path) -> None:
    """The table's images twice, as 300 to calibrate on."""
    rows = [line.split(",") for line in several_table.read_text().splitlines()[1:]]
    table = ["image,label,split", f"{several_table.parent / rows[0][0]},red,test"]
    for i, (image, label) in enumerate([*rows, *rows]):
        (tmp_path / f"{i}.png").write_bytes((several_table.parent / image).read_bytes())
        table.append(f"{i}.png,{label},train")
    (tmp_path / "twice.csv").write_text("\n".join(table))
    folder = rk.export_servable(
        several_run,
        tmp_path / "several",
        dtype="int8",
        calibration_data=str(tmp_path / "twice.csv"),
        max_accuracy_loss=30,
    )
    facts = manifest_of(folder)["int8"]
    assert 0.6 < facts["accuracy_float32"] <= 1
    assert 0.7 < facts["agreement"] <= 1
    assert facts["images"] == 150


def test_the_commands(
    several_run: Path, several_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(several_run), "--json"]) == 0
    found = json_of(capsys)
    assert [row["label"] for row in found["per_class"]] == list(LABELS)
    assert {"loss", "accuracy", "mean_average_precision", "examples", "per_class"} == set(found)
    assert main(["evaluate", str(several_run)]) == 0
    out = capsys.readouterr().out
    assert out.count("average precision") == 4
    assert f"mean average precision {found['mean_average_precision']:.4f}" in out
    assert main(["predict", str(several_run), str(several_table.parent / "1.png")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{several_table.parent / '1.png'}: ")
    assert (
        main(["explain", str(several_run), str(several_table.parent / "1.png"), "--output", str(tmp_path / "a.png")])
        == 0
    )
    capsys.readouterr()
    assert main(["data", str(several_table), "--output", str(tmp_path / "data.html"), "--json"]) == 0
    counts = json_of(capsys)
    assert counts["several_labels"]
    assert "balanced_weight" not in counts["classes"][0]
    assert any("Several labels an image: 1." in one["text"] for one in counts["advice"])
    assert "150 images with 3 labels, several an image" in (tmp_path / "data.html").read_text()
    page = (several_run / "report.html").read_text()
    for words in ("Mean average precision", "Labels on the test split", "Threshold", "of all decisions"):
        assert words in page
    assert 'class="confusion"' not in page
    assert "Most frequent confusions" not in page
    assert "nan%" not in page


def test_runs_are_compared_by_it(
    several_run: Path, digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", str(several_run), str(digits_run), "--output", str(page), "--json"]) == 0
    several, digits = json_of(capsys)["runs"]
    assert several["mean_average_precision"] > 0.5
    assert "top5_accuracy" not in several
    assert "mean_average_precision" not in digits
    assert "Test mean average precision" in page.read_text()


def test_what_it_cannot_do_is_said(tiny: TrainConfig, several_table: Path, several_run: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, data=str(several_table), image_size=16, run_dir=str(tmp_path / "run"))
    for changes in ({"label_smoothing": 0.1}, {"class_weights": "balanced"}, {"calibrate": True}):
        (name,) = changes
        with pytest.raises(UsageError, match=f"{name} is for one label an image, and .*data.csv has several"):
            run(dataclasses.replace(config, **changes))
    with pytest.raises(UsageError, match="metrics is for one label an image"):
        run(config, given=Given(metrics=["top_k_categorical_accuracy"]))
    assert not (tmp_path / "run").exists()
    ours = rk.create_model("cifar_resnet20", input_shape=(16, 16, 3), classes=3, include_preprocessing=True, **TINY)
    with pytest.raises(UsageError, match=r"data\.csv has several labels an image, and .* gives one class"):
        evaluate(ours, str(several_table))
    with pytest.raises(UsageError, match="gives several labels an image, and .* ends in a softmax; build it with"):
        rk.load_weights(ours, several_run)
    fitting = rk.create_model(
        "cifar_resnet20", input_shape=(16, 16, 3), classes=3, classifier_activation="sigmoid", **TINY
    )
    rk.load_weights(fitting, several_run)
    assert rk.model_card(fitting).thresholds == rk.model_card(rk.load_model(several_run)).thresholds


def test_what_is_published_says_how_it_is_loaded(several_run: Path, tmp_path: Path) -> None:
    rk.publish(several_run, tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "given from its threshold on" in card
    assert "| mean average precision |" in card
    assert "top 1" not in card
    assert "classifier_activation='sigmoid'" in card
    again = rk.load_model(tmp_path / "mine" / "model.keras")
    assert rk.model_card(again).thresholds == rk.model_card(rk.load_model(several_run)).thresholds


def arrays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of which the left half is bright, the right half, both or neither."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2))
    images = rng.integers(0, 60, (count, 8, 8, 1))
    images[:, :, :4] += 150 * labels[:, 0, None, None, None]
    images[:, :, 4:] += 150 * labels[:, 1, None, None, None]
    return images.astype("uint8"), labels.astype("float32")


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


@pytest.mark.parametrize("make", [lambda: None, small_model])
def test_arrays_of_zeros_and_ones(tiny: TrainConfig, tmp_path: Path, make: Callable[[], keras.Model | None]) -> None:
    data = (arrays(120, 0), arrays(40, 1), arrays(40, 2))
    config = dataclasses.replace(
        tiny, augmentation=Augmentation(mixup=0.1), epochs=6, batch_size=20, run_dir=str(tmp_path / "run")
    )
    result = run(config, given=Given(model=make(), data=data))
    assert result.metrics["mean_average_precision"] > 0.95
    model = rk.load_model(result.run_dir)
    assert head_of(model).activation == "sigmoid"
    assert len(rk.model_card(model).thresholds) == 2
    (both,) = [i for i in range(40) if data[2][1][i].all()][:1]
    scores = np.asarray(model(data[2][0][[both]]))[0]
    assert (scores >= rk.model_card(model).thresholds).all()


def test_arrays_that_are_not_alike(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, run_dir=str(tmp_path / "run"), batch_size=20)
    images, labels = arrays(40, 0)
    wrong = [
        ((images, labels[:, 0].astype("int64")), "the test labels must be zeros and ones"),
        ((images, labels * 0.5), "the test labels must be zeros and ones"),
        ((images, np.zeros((40, 3))), "the training labels are 2 columns, for 3 classes"),
    ]
    for test, said in wrong:
        with pytest.raises(UsageError, match=said):
            run(config, given=Given(data=((images, labels), test)))
    with pytest.raises(UsageError, match="no test image of data given has a label"):
        run(config, given=Given(data=((images, labels), (images, labels * 0))))
    softmax = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    with pytest.raises(UsageError, match="model must end in logits for several labels an image"):
        run(config, given=Given(model=softmax, data=((images, labels), (images, labels))))
    assert not (tmp_path / "run").exists()


def test_without_validation_a_label_is_given_from_a_half_on(tiny: TrainConfig, tmp_path: Path) -> None:
    data = (arrays(60, 0), arrays(40, 2))
    config = dataclasses.replace(tiny, epochs=1, batch_size=20, run_dir=str(tmp_path / "run"))
    result = run(config, given=Given(data=data))
    assert rk.model_card(result.model).thresholds == (0.5, 0.5)
    assert "validation" not in result.metrics


@pytest.mark.slow
def test_a_stopped_run_of_several_labels_resumes(tiny: TrainConfig, several_table: Path, tmp_path: Path) -> None:
    changes = {"data": str(several_table), "image_size": 16, "batch_size": 15, "validation": 0.3, "epochs": 2}
    config = dataclasses.replace(tiny, **changes)
    whole = run(dataclasses.replace(config, run_dir=str(tmp_path / "whole")))

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 0:
                raise RuntimeError("power cut")

    stopped = dataclasses.replace(config, run_dir=str(tmp_path / "stopped"))
    with pytest.raises(RuntimeError, match="power cut"):
        run(stopped, callbacks=[Stop()])
    resumed = run(stopped)
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rk.model_card(whole.model).thresholds == rk.model_card(resumed.model).thresholds
