"""Random changes beside torchvision's and timm's, on the same images.

`make test-interop` installs them.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from peers import timm, torchvision_models
from PIL import Image
from test_data import largest_gap, parts_of

from resnet_keras.data.augmentation import resized_part
from resnet_keras.data.policies import randaugment, trivialaugment

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
COUNT, DRAWS = 4000, 600


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two real images, uint8 [224, 224, 3]."""
    from sklearn.datasets import load_sample_images

    return [np.array(Image.fromarray(image).resize((224, 224))) for image in load_sample_images().images]


def change(images: list[np.ndarray], policy: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """The mean absolute change of each of `DRAWS` draws, over the images in turn."""
    return np.array(
        [
            np.abs(policy(image, i).astype(float) - image).mean()
            for i, image in ((i, images[i % len(images)]) for i in range(DRAWS))
        ]
    )


def assert_within_noise(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The means are no farther apart than three standard errors of their difference."""
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
    print(f"mean absolute change: ours {ours.mean():.1f}, theirs {theirs.mean():.1f}, standard error {error:.1f}")
    assert abs(ours.mean() - theirs.mean()) < 3 * error


@pytest.mark.parametrize("magnitude", [5, 6, 7])  # at 10, which 9 comes to, timm asks Pillow for no bits: an error
def test_the_whole_policy_changes_as_much_as_timms(photographs: list[np.ndarray], magnitude: int) -> None:
    """`rand-m7-mstd0.5-inc1` of A1 and its like."""
    timm()
    from timm.data.auto_augment import rand_augment_transform  # pyright: ignore[reportMissingImports]

    mean = (124, 116, 104)
    theirs = rand_augment_transform(f"rand-m{magnitude}-mstd0.5-inc1", {"translate_const": 100, "img_mean": mean})
    fill, options = tf.constant(mean, tf.uint8), {"operations": 2, "magnitude": float(magnitude), "magnitude_std": 0.5}
    ours = tf.function(
        lambda image, seed: randaugment(image, seed, fill, probability=0.5, policy="increasing", **options),
        input_signature=[tf.TensorSpec([224, 224, 3], tf.uint8), tf.TensorSpec([2], tf.int64)],
    )
    random.seed(0)
    np.random.seed(0)
    assert_within_noise(
        change(photographs, lambda image, i: ours(image, tf.constant([1, i], tf.int64)).numpy()),
        change(photographs, lambda image, i: np.array(theirs(Image.fromarray(image)))),
    )


def test_trivialaugment_changes_as_much_as_torchvisions(photographs: list[np.ndarray]) -> None:
    torchvision_models()
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide  # pyright: ignore[reportMissingImports]

    theirs, fill = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR), tf.zeros([3], tf.uint8)
    ours = tf.function(
        lambda image, seed: trivialaugment(image, seed, fill),
        input_signature=[tf.TensorSpec([224, 224, 3], tf.uint8), tf.TensorSpec([2], tf.int64)],
    )
    torch.manual_seed(0)
    assert_within_noise(
        change(photographs, lambda image, i: ours(image, tf.constant([1, i], tf.int64)).numpy()),
        change(photographs, lambda image, i: np.array(theirs(Image.fromarray(image)))),
    )


@pytest.mark.parametrize("sides", [(375, 500), (100, 100), (60, 300)])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_random_part_is_drawn_as_theirs(library: str, sides: tuple[int, int]) -> None:
    if library == "torchvision":
        torchvision_models()
        from torchvision.transforms import RandomResizedCrop as Crop  # pyright: ignore[reportMissingImports]
    else:
        timm()
        from timm.data.transforms import (  # pyright: ignore[reportMissingImports]
            RandomResizedCropAndInterpolation as Crop,
        )
    image = torch.zeros(3, *sides)
    theirs = np.array([Crop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(COUNT)])
    ours = parts_of(sides, resized_part, COUNT)
    for name in range(4):
        assert largest_gap(ours[:, name], theirs[:, name]) < 1.95 * np.sqrt(2 / COUNT), name
