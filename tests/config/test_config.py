import dataclasses
import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_keras.config.recipes import RECIPES, recipe, recipe_summary
from resnet_keras.config.stored import config_from_json
from resnet_keras.config.train import AUTO, Augmentation, Optimizer, Schedule, TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.models.registry import named


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    config = recipe(name)
    assert config.name == name
    assert config.model == AUTO or named(config.model)
    assert config_from_json(config.to_json()) == config
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"resnet-keras train {name}" in " ".join(text.split())
    for word in ("Source:", "Expected:", "Cost:"):
        assert word in text
    assert recipe_summary(name).endswith(".")


def test_the_papers_protocol() -> None:
    """He et al. 2015, section 4.2: 64k steps of 128, rate 0.1, a tenth of it at 32k and 48k, decay 1e-4."""
    config = recipe("cifar10-resnet20")
    assert config.epochs * (50_000 // config.batch_size) == pytest.approx(64_000, rel=0.01)
    assert config.schedule.milestones == (32 / 64, 48 / 64)
    sgd = config.optimizer
    assert (sgd.learning_rate, sgd.weight_decay, sgd.momentum) == (0.1, 1e-4, 0.9)
    assert config.augmentation == Augmentation("pad", 4, flip=True)


def test_flags_have_no_prefix_so_field_names_are_unique() -> None:
    names = [
        field.name
        for kind in (TrainConfig, Augmentation, Optimizer, Schedule)
        for field in dataclasses.fields(kind)
        if field.name not in ("augmentation", "optimizer", "schedule")
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainConfig, {"epochs": -1}, "epochs must be at least 1, or 0 for as many as the images call for, not -1"),
        (TrainConfig, {"batch_size": 0}, "batch_size must be at least 1"),
        (TrainConfig, {"epochs": "3"}, "epochs must be of type int, not '3'"),
        (TrainConfig, {"epochs": True}, "epochs must be of type int"),
        (TrainConfig, {"precision": "float8"}, "unknown precision 'float8'; choose from float32"),
        (TrainConfig, {"seed": -1}, "seed must be"),
        (TrainConfig, {"label_smoothing": 1.0}, "label_smoothing must be"),
        (TrainConfig, {"image_size": 0}, "image_size must be"),
        (TrainConfig, {"eval_crop": 0.0}, "eval_crop must be"),
        (Optimizer, {"learning_rate": -0.1}, "learning_rate must be above 0, not -0.1"),
        (Optimizer, {"learning_rate": float("nan")}, "learning_rate must be of type float"),
        (Optimizer, {"weight_decay": -1.0}, "weight_decay must be at least 0"),
        (Optimizer, {"momentum": 0.0}, "momentum must be above 0 with nesterov"),
        (Schedule, {"warmup": 1.0}, "warmup must be"),
        (Schedule, {"milestones": (0.7, 0.5)}, "milestones must be rising"),
        (Schedule, {"decay": "exp"}, "unknown decay 'exp'"),
        (Schedule, {"warmup": 0.1, "warmup_shape": "constant"}, "warmup_from must be above 0 with warmup_shape"),
        (Schedule, {"floor": 2.0}, "floor must be between 0 and 1"),
        (TrainConfig, {"accumulation": 0}, "accumulation must be at least 1"),
        (TrainConfig, {"ema": 1.0}, "ema must be at least 0 and below 1"),
        (TrainConfig, {"train_sizes": (8, 16), "epochs": 1}, "train_sizes must be at most one an epoch"),
        (TrainConfig, {"unfreeze": {"stage2": 0.5}}, "freeze must be given with unfreeze"),
        (TrainConfig, {"freeze": "stem", "unfreeze": {"stem": 2}}, "unfreeze stem must be a fraction"),
        (TrainConfig, {"profile": "20:10"}, "profile must be two steps, such as 10:20"),
        (TrainConfig, {"target_threshold": 0.2}, "target_threshold must be 0 with loss softmax"),
        (Optimizer, {"clip_norm": -1.0}, "clip_norm must be at least 0"),
        (Optimizer, {"epsilon": -1.0}, "epsilon must be at least 0"),
        (Optimizer, {"epsilon": 1e-8}, "epsilon must be 0 with sgd"),
        (Augmentation, {"magnitude": 11.0}, "magnitude must be between 0 and 10"),
        (Augmentation, {"magnitude": 31.0, "policy": "randaugment-rs"}, "magnitude must be between 0 and 30"),
        (Augmentation, {"mixup": -1.0}, "mixup must be at least 0"),
        (Augmentation, {"repeats": 0}, "repeats must be at least 1"),
        (Augmentation, {"scale_range": (2.0, 1.5)}, "scale_range must be two rising numbers"),
        (Augmentation, {"crop": "five"}, "unknown crop 'five'"),
        (Augmentation, {"pad": 0}, "pad must be at least 1"),
        (Augmentation, {"min_area": 0.0}, "min_area must be"),
    ],
    ids=str,
)
def test_refusals(kind: type, values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "best.json is not JSON"),
        ("[1]", "best.json must be a JSON object, not list"),
        ('{"epoch": 3}', "unknown field in best.json 'epoch'; did you mean epochs"),
        ('{"optimizer": {"lr": 3}}', "unknown field in best.json, optimizer 'lr'; did you mean learning_rate"),
        ('{"optimizer": 3}', "best.json, optimizer must be a JSON object"),
        ('{"format_version": 3}', "best.json has format_version 3, and resnet-keras .* it needs a later version: pip"),
        ('{"format_version": "1"}', "best.json, format_version must be a whole number from 1, not '1'"),
    ],
)
def test_json_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_from_json(text, "best.json")


@given(
    epochs=st.integers(1, 10**4),
    rate=st.floats(1e-6, 10),
    milestones=st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(sorted),
    options=st.dictionaries(st.sampled_from(["shortcut", "se_ratio"]), st.sampled_from(["B", 0.5])),
)
def test_json_round_trip(epochs: int, rate: float, milestones: list[float], options: dict) -> None:
    config = TrainConfig(
        epochs=epochs,
        optimizer=Optimizer(learning_rate=rate),
        schedule=Schedule(milestones=tuple(milestones)),
        model_options=options,
    )
    assert config_from_json(config.to_json()) == config


def test_the_json_says_its_format() -> None:
    assert json.loads(TrainConfig().to_json())["format_version"] == 2


def test_fields_left_out_have_their_defaults() -> None:
    assert config_from_json(json.dumps({"epochs": 3})) == TrainConfig(epochs=3)
