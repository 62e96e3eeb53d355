"""The recipes of ConvNeXt and ViT on small networks and images: they train, and fine-tuning starts where they end."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_keras as rk
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import TrainConfig

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (32, 40, 40, 3), "uint8"), np.arange(32) % 4
NETS: dict[str, dict[str, Any]] = {
    "convnext": {"blocks": "1,1,1,1", "widths": "4,4,8,8"},
    "vit": {"blocks": 2, "width": 8, "heads": 2, "image_size": 32},
}


def small(name: str, side: int, folder: Path, weights: str | None = None) -> TrainConfig:
    """A recipe as it is, but for the sizes of network, images, batch and run."""
    config = recipe(name)
    options = {**config.model_options, **NETS[config.model.partition("_")[0]]}
    run: dict[str, Any] = {"run_dir": str(folder / name), "epochs": 1, "batch_size": 8, "weights": weights}
    return dataclasses.replace(config, model_options=options, image_size=side, **run)


def head(model: Any) -> np.ndarray:
    return model.get_layer("logits").kernel.numpy()


@pytest.mark.parametrize("name", ["imagenet-convnext", "imagenet-deit", "imagenet-deit3"])
def test_a_recipe_and_its_fine_tuning(name: str, tmp_path: Path) -> None:
    data = ((IMAGES, LABELS), (IMAGES, LABELS))
    first = rk.train(small(name, 32, tmp_path), data=data, quiet=True)
    assert np.isfinite(first.metrics["loss"])
    tuned = rk.train(small(f"{name}-384", 48, tmp_path, str(tmp_path / name)), data=data, quiet=True)
    assert np.isfinite(tuned.metrics["loss"])
    assert tuned.model.input_shape == (None, 48, 48, 3)
    moved = np.abs(head(tuned.model) - head(first.model)).max()
    assert 0 < moved < 1e-3  # four steps at 1e-5 or so from there; kernels start with a deviation of 0.02
