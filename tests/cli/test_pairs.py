"""Flags of names and values, where a recipe or a run has some already."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from resnet_keras.cli.main import _parse
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import TrainConfig


def config_of(*words: str) -> TrainConfig:
    command: Any = _parse(["train", *words])
    return command.config


def test_those_of_a_recipe_stay_and_can_be_changed() -> None:
    assert recipe("imagenet-a1").model_options == {"stochastic_depth": 0.05}
    assert config_of("imagenet-a1") == recipe("imagenet-a1")
    changed = config_of("imagenet-a1", "--model-options", "se_ratio", "0.25")
    assert changed.model_options == {"stochastic_depth": 0.05, "se_ratio": 0.25}
    assert config_of("imagenet-a1", "--model_options", "stochastic_depth", "0.1").model_options == {
        "stochastic_depth": 0.1
    }


def test_a_run_may_have_the_names_of_other_flags(tmp_path: Path) -> None:
    """tyro made a flag of each name: a run of a ViT of 8 pixels could be neither resumed nor repeated."""
    options = {"image_size": 8, "patch_size": 2, "dropout": 0.1}
    run = dataclasses.replace(
        recipe("digits"),
        model="vit_ti16",
        model_options=options,
        freeze="stem",
        unfreeze={"stem": 0.5},
        class_weights={"1": 2.0},
        run_dir=str(tmp_path),
    )
    (tmp_path / "config.json").write_text(run.to_json())
    assert config_of(str(tmp_path)) == run
    assert config_of(str(tmp_path / "config.json"), "--image-size", "8").model_options == options
    changed = config_of(str(tmp_path), "--class-weights", "balanced", "--unfreeze", "stage1", "0.2")
    assert (changed.class_weights, changed.unfreeze) == ("balanced", {"stem": 0.5, "stage1": 0.2})
    assert config_of(str(tmp_path), "--class-weights=none").class_weights == "none"


def test_help_says_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert _parse(["train", "imagenet-a1", "--help"]) is None
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--model-options [NAME VALUE ...]" in said
    assert "(default: stochastic_depth 0.05)" in said
    assert "--stochastic-depth" not in said
