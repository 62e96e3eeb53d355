"""The dictionary of a model's card, in which `.keras` files and manifests have it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard
from resnet_keras.models.preprocessing import Preprocessing

CARD = ModelCard(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), labels=("a", "b"), metrics={"accuracy": 0.5})


def test_a_card_goes_through_json() -> None:
    stored = json.loads(json.dumps(CARD.to_dict()))
    assert stored["format_version"] == 1
    assert ModelCard.from_dict(stored) == CARD
    assert Preprocessing.from_config(Preprocessing(CARD).get_config()).card == CARD


def test_a_card_without_a_format_is_of_version_1() -> None:
    stored = CARD.to_dict()
    del stored["format_version"]
    assert ModelCard.from_dict(stored) == Preprocessing(stored).card == CARD


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_a_card_of_a_later_format_is_refused(version: Any) -> None:
    stored = {**CARD.to_dict(), "format_version": version}
    with pytest.raises(
        UsageError, match=f"model card has format_version {version!r}, .* reads up to 1; install a newer"
    ):
        ModelCard.from_dict(stored)


def test_a_file_of_a_later_format_is_not_called_damaged(tmp_path: Path) -> None:
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 3), include_preprocessing=CARD, classes=2)
    model.save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            assert name != "config.json" or b'"format_version": 1' in content
            new.writestr(name, content.replace(b'"format_version": 1', b'"format_version": 2'))
    assert rk.model_card(rk.load_model(tmp_path / "a.keras")).labels == ("a", "b")
    with pytest.raises(UsageError, match=r"b\.keras cannot be loaded: the model card has format_version 2") as error:
        rk.load_model(tmp_path / "b.keras")
    assert "\n" not in str(error.value)
