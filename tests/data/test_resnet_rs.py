"""ResNet-RS's RandAugment beside its own code, on the same real images.

The code is a file of tensorflow/tpu, which needs TensorFlow 1's `contrib`: three warps stand in for it here. It is not
copied: RESNET_RS_SOURCE names a checkout, at 7dc921f when this was written.
"""

import importlib.util
import inspect
import math
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras.data.policies import OPERATIONS, randaugment

pytestmark = pytest.mark.interop
DRAWS, SIZE = 600, 160
GREY = tf.constant([128], tf.uint8)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two real images, uint8 [160, 160, 3]."""
    from sklearn.datasets import load_sample_images

    return [np.array(Image.fromarray(image).resize((SIZE, SIZE))) for image in load_sample_images().images]


def transform(image: tf.Tensor, coefficients: Any) -> tf.Tensor:
    """`tf.contrib.image.transform`: the nearest pixel, zeros from outside."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.cast(each, tf.float32) for each in coefficients])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def translate(image: tf.Tensor, shift: Any) -> tf.Tensor:
    return transform(image, [1, 0, -shift[0], 0, 1, -shift[1], 0, 0])


def rotate(image: tf.Tensor, angle: Any) -> tf.Tensor:
    y, x = ((tf.cast(side, tf.float32) - 1) / 2 for side in tf.unstack(tf.shape(image)[:2]))
    cos, sin = tf.cos(angle), tf.sin(angle)
    return transform(image, [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, 0, 0])


@pytest.fixture(scope="module")
def source() -> Any:
    path = Path(os.environ.get("RESNET_RS_SOURCE", "")) / "models/official/efficientnet/autoaugment.py"
    if not path.is_file():
        pytest.skip("RESNET_RS_SOURCE is not a checkout of tensorflow/tpu")
    contrib: Any = types.ModuleType("tensorflow.contrib")
    contrib.image = types.SimpleNamespace(transform=transform, translate=translate, rotate=rotate)
    contrib.training = types.SimpleNamespace(HParams=lambda **values: types.SimpleNamespace(**values))
    found = importlib.util.spec_from_file_location("resnet_rs_autoaugment", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow.contrib", contrib)
        found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("magnitude", [10, 15])
def test_the_whole_policy_changes_as_much(source: Any, photographs: list[np.ndarray], magnitude: int) -> None:
    """The mean absolute change, the share of near-black images and the mean pixel are within noise."""
    spec = tf.TensorSpec([SIZE, SIZE, 3], tf.uint8)
    theirs = tf.function(
        lambda image: source.distort_image_with_randaugment(image, 2, magnitude),
        input_signature=[spec],
        autograph=False,
    )
    ours = tf.function(
        lambda image, seed: randaugment(image, seed, GREY, operations=2, magnitude=float(magnitude), policy="rs"),
        input_signature=[spec, tf.TensorSpec([2], tf.int64)],
    )
    tf.random.set_seed(0)
    drawn = {
        "theirs": [theirs(photographs[i % 2]).numpy() for i in range(DRAWS)],
        "ours": [ours(photographs[i % 2], tf.constant([1, i], tf.int64)).numpy() for i in range(DRAWS)],
    }
    measured = {
        who: np.array(
            [
                [np.abs(x.astype(float) - photographs[i % 2]).mean(), x.mean(), x.mean() < 10]
                for i, x in enumerate(images)
            ]
        )
        for who, images in drawn.items()
    }
    error = np.sqrt(sum(values.var(0) / DRAWS for values in measured.values()))
    means = {who: values.mean(0) for who, values in measured.items()}
    print(f"magnitude {magnitude}: mean change, mean pixel, share near black: {means}, standard error {error}")
    assert means["theirs"][2] == means["ours"][2] == 0
    assert (np.abs(means["ours"] - means["theirs"])[:2] < 3 * error[:2]).all()


PAIRS = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate_nearest": "Rotate",
    "posterize_up": "Posterize",
    "solarize_modulo": "Solarize",
    "colour_one_way": "Color",
    "contrast_of_area": "Contrast",
    "brightness_one_way": "Brightness",
    "sharpness_one_way": "Sharpness",
    "shear_x_nearest": "ShearX",
    "shear_y_nearest": "ShearY",
    "translate_x_hundred": "TranslateX",
    "translate_y_hundred": "TranslateY",
    "solarize_add": "SolarizeAdd",
}
"""Ours and theirs; cutout draws its place."""


@pytest.mark.parametrize("magnitude", [10, 15])
@pytest.mark.parametrize("name", PAIRS)
def test_an_operation_is_theirs(source: Any, photographs: list[np.ndarray], name: str, magnitude: int) -> None:
    """Pixels are off by no more than 2, which their rounding down leaves."""
    row, theirs = OPERATIONS[name], source.NAME_TO_FUNC[PAIRS[name]]
    constants = types.SimpleNamespace(cutout_const=40, translate_const=100)
    arguments: list[Any] = [float(each) for each in source.level_to_arg(constants)[PAIRS[name]](float(magnitude))]
    start, end = row.rs or (0, 0)
    amount = start + magnitude / 10 * (end - start)
    if row.signed:  # theirs is drawn
        amount = math.copysign(amount, arguments[0])
    if "replace" in inspect.signature(theirs).parameters:
        arguments.append([128] * 3)
    elif name in ("posterize_up", "solarize_modulo", "solarize_add"):
        arguments = [int(each) for each in arguments]
    wanted = theirs(tf.constant(photographs[0]), *arguments).numpy().astype(int)
    made = row.apply(tf.constant(photographs[0]), tf.constant(amount, tf.float32), GREY).numpy().astype(int)
    off = (np.abs(made - wanted).max(-1) > 2).mean()
    print(f"{name} at {magnitude}: {100 * off:.2f} % of the pixels off by more than 2")
    assert off < 0.002


def test_cutout_is_theirs_in_size(source: Any, photographs: list[np.ndarray]) -> None:
    image = tf.constant(photographs[0] // 2)  # no 128 in it
    shares = {"theirs": [], "ours": []}
    tf.random.set_seed(0)
    for i in range(DRAWS):
        place = tf.random.stateless_uniform([2], (1, i))
        shares["theirs"].append((source.cutout(image, 40, 128).numpy() == 128).mean())
        shares["ours"].append((OPERATIONS["cutout"].apply(image, tf.constant(40.0), GREY, place).numpy() == 128).mean())
    error = math.sqrt(sum(np.var(values) / DRAWS for values in shares.values()))
    assert abs(np.mean(shares["theirs"]) - np.mean(shares["ours"])) < 3 * error
    assert max(shares["theirs"]) == max(shares["ours"]) == 0.25
