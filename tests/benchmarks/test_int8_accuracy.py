"""The table of accuracies in int8, and a whole run of the program."""

import json
from pathlib import Path

import pytest

from benchmarks.int8_accuracy import COLUMNS, Arguments, like_a1, main, markdown, plain
from resnet_keras.export.quantized import available


def test_seeds_are_one_line() -> None:
    numbers = dict(zip(COLUMNS, (0.9, 0.5, 0.9, 0.6, 0.8), strict=True))
    rows = [
        {"recipe": "plain", "weights": "as trained", "seed": 0, **numbers},
        {"recipe": "plain", "weights": "as trained", "seed": 1, **numbers, "trained_int8": 0.82},
        {"recipe": "a1", "weights": "as trained", "seed": 0, **numbers},
    ]
    head, _, *lines = markdown(rows).splitlines()
    assert head.count("|") == lines[0].count("|") == 10
    assert lines[0].startswith("| plain | as trained | 2 | 90.00 (90.00 to 90.00) | 50.00 (50.00 to 50.00) |")
    assert lines[0].endswith("| 81.00 (68.29 to 93.71) | +31.00 (+18.29 to +43.71) |")
    assert lines[1].endswith("| 80.00 | +30.00 |")


def test_the_recipes_differ_as_a1_does() -> None:
    arguments = Arguments()
    one, other = plain(arguments), like_a1(arguments)
    assert (one.loss, one.optimizer.algorithm, one.augmentation.mixes) == ("softmax", "sgd", False)
    assert (other.loss, other.optimizer.algorithm, other.augmentation.mixes) == ("sigmoid", "lamb", True)
    assert other.augmentation.policy == "randaugment-increasing"


def test_wrong_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tune-epochs", "0"]) == 2
    assert capsys.readouterr().err.startswith("int8_accuracy: tune_epochs must be at least 1, not 0")


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="this TensorFlow has no quantised convolution")
def test_the_digits(tmp_path: Path, data_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "digits", "--data-dir", data_dir, "--blocks", "1,1,1", "--recipes", "plain", "--outliers", "64"]
    words += ["--epochs", "2", "--tune-epochs", "1", "--output", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == 4
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["weights"] for row in rows] == ["as trained", "outlier channels, x64"]
    assert all(0 <= row[column] <= 1 for row in rows for column in COLUMNS)
    assert main(words) == 0  # the runs are there
    assert capsys.readouterr().out == table
