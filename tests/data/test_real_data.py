"""Real colour images, where they are at hand: `../shared/data` beside the checkout. Minutes each."""

import json
from pathlib import Path

import pytest
from small import SHARED_DATA

import resnet_keras as rk
from resnet_keras.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is absent"),
]


def trained(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["train", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_cifar10_in_four_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CIFAR-10 (JPEG Q75), not CIFAR-10: these pixels went through JPEG."""
    words = ["--data-dir", str(SHARED_DATA / "tfds"), "--epochs", "4", "--run-dir", str(tmp_path / "run")]
    assert trained(capsys, "cifar10-resnet20", *words)["accuracy"] > 0.74


def test_the_packaged_weights_are_as_good_as_their_card_says() -> None:
    """But for an image or two, which rounding on another processor may move."""
    card = rk.model_card(rk.load_model("cifar10-jpeg"))
    result = rk.evaluate("cifar10-jpeg", data_dir=str(SHARED_DATA / "tfds"))
    assert result.examples == card.metrics["examples"]
    assert result.accuracy == pytest.approx(card.metrics["accuracy"], abs=2e-4)
    assert result.loss == pytest.approx(card.metrics["loss"], rel=1e-4)


def test_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten classes of hands, three images of them 3024x3024; a tenth would be guessed."""
    folder = SHARED_DATA / "sign_language_digits"
    run = str(tmp_path / "run")
    result = trained(capsys, "finetune", "--data", str(folder), "--epochs", "4", "--run-dir", run)
    assert result["examples"] == 405
    assert result["accuracy"] > 0.9
    large = max(folder.rglob("*.JPG"), key=lambda path: path.stat().st_size)
    assert main(["predict", run, str(large), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"][0]["labels"]) == 5
