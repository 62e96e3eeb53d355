"""Each change of an image beside torchvision's and timm's, with the same draw, on real images.

What is printed, and bounded, is the share of pixels of which a channel is off by more than 1. Neither library has the
colour shift of `lighting`. `make test-interop` installs them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from peers import timm
from PIL import Image, ImageFilter
from test_data import largest_gap

from resnet_keras.config.train import Augmentation
from resnet_keras.data import augmentation as changes
from resnet_keras.data.images import resize, resize_and_centre_crop
from resnet_keras.data.policies import OPERATIONS

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
FILL, SIDE, COUNT = (124, 116, 104), 224, 2000
timm()
functional: Any = pytest.importorskip("torchvision.transforms.functional", reason="torchvision is not installed")
policies: Any = pytest.importorskip("timm.data.auto_augment", reason="timm is not installed")
MODES = {
    "bilinear": functional.InterpolationMode.BILINEAR,
    "bicubic": functional.InterpolationMode.BICUBIC,
}
WARP = {"resample": Image.Resampling.BILINEAR, "fillcolor": FILL}


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two real images, uint8 [427, 640, 3]."""
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]


def share_off(ours: Any, theirs: Any, where: np.ndarray | None = None) -> float:
    """The share of pixels, of those that count, of which a channel is off by more than 1."""
    apart = np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max(-1) > 1
    return float(apart.mean() if where is None else apart[where].mean())


def affine(image: Any, **options: Any) -> Any:
    same = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "fill": [float(c) for c in FILL]}
    return functional.affine(image, **{**same, "interpolation": MODES["bilinear"], **options})


def corner(x: float, y: float) -> dict[str, Any]:
    return {"shear": [x, y], "center": [0, 0]}


Change = Callable[[Any], Any]
CASES: list[tuple[str, float, Change | None, Change | None, float]] = [
    # name, amount, timm's on a PIL image, torchvision's on a tensor, share of pixels that a border may put off
    ("autocontrast", 0, policies.auto_contrast, functional.autocontrast, 0),
    ("equalize", 0, policies.equalize, functional.equalize, 0),
    ("invert", 0, policies.invert, functional.invert, 0),
    ("solarize", 77, lambda i: policies.solarize(i, 77), lambda i: functional.solarize(i, 77), 0),
    ("grey", -1, lambda i: functional.to_grayscale(i, 3), None, 0),
    ("blur", 0.3, lambda i: i.filter(ImageFilter.GaussianBlur(0.3)), None, 0.2),  # PIL rounds six times
    ("blur", 1.7, lambda i: i.filter(ImageFilter.GaussianBlur(1.7)), None, 0.1),
    ("solarize_add", 77, lambda i: policies.solarize_add(i, 77), None, 0),
    ("posterize", 2, lambda i: policies.posterize(i, 6), lambda i: functional.posterize(i, 6), 0),
    ("posterize_down", 5, lambda i: policies.posterize(i, 3), lambda i: functional.posterize(i, 3), 0),
    # The warps: PIL and torchvision repeat the outermost pixel for half a pixel, we blend it with the fill.
    ("rotate", 21, lambda i: policies.rotate(i, 21, **WARP), None, 0.01),
    ("rotate", -33, lambda i: policies.rotate(i, -33, **WARP), None, 0.01),
    ("shear_x", 0.21, lambda i: policies.shear_x(i, 0.21, **WARP), None, 0.005),
    ("shear_y", -0.3, lambda i: policies.shear_y(i, -0.3, **WARP), None, 0.005),
    ("translate_x", 0.3, lambda i: policies.translate_x_rel(i, 0.3, **WARP), None, 0.005),
    ("translate_y", -0.3, lambda i: policies.translate_y_rel(i, -0.3, **WARP), None, 0.005),
    ("translate_x_pixels", -13, lambda i: policies.translate_x_abs(i, -13, **WARP), None, 0),
    ("translate_y_pixels", 27, lambda i: policies.translate_y_abs(i, 27, **WARP), None, 0),
    (
        "rotate",
        21,
        None,
        lambda i: functional.rotate(i, 21, interpolation=MODES["bilinear"], fill=[float(c) for c in FILL]),
        0.01,
    ),
    ("shear_x", 0.21, None, lambda i: affine(i, **corner(math.degrees(math.atan(0.21)), 0)), 0.005),
    ("shear_y", 0.21, None, lambda i: affine(i, **corner(0, math.degrees(math.atan(0.21)))), 0.005),
    ("translate_x_pixels", -13, None, lambda i: affine(i, translate=[13, 0]), 0),
    ("translate_y_pixels", 27, None, lambda i: affine(i, translate=[0, -27]), 0),
]
for amount in (-0.63, 0.63):
    for ours, in_pil, in_torch in (
        ("contrast", policies.contrast, functional.adjust_contrast),
        ("brightness", policies.brightness, functional.adjust_brightness),
        ("sharpness", policies.sharpness, functional.adjust_sharpness),
    ):
        factor = 1 + amount
        CASES.append((ours, amount, lambda i, f=in_pil, v=factor: f(i, v), lambda i, f=in_torch, v=factor: f(i, v), 0))
    CASES.append(("colour", amount, lambda i, v=1 + amount: policies.color(i, v), None, 0))
    # torchvision truncates its grey on tensors, which PIL rounds: up to 2 apart.
    CASES.append(("colour", amount, None, lambda i, v=1 + amount: functional.adjust_saturation(i, v), 0.05))


@pytest.mark.parametrize(("name", "amount", "in_pil", "in_torch", "bound"), CASES)
def test_an_operation_is_theirs(
    name: str,
    amount: float,
    in_pil: Change | None,
    in_torch: Change | None,
    bound: float,
    photographs: list[np.ndarray],
) -> None:
    def apply(image: np.ndarray, fill: tuple[int, ...] = FILL) -> np.ndarray:
        operation = OPERATIONS[name].apply
        return operation(tf.constant(image), tf.constant(float(amount)), tf.constant(fill, tf.uint8)).numpy()

    # Pixels that come wholly from the image or from outside: on a white image with a black edge, 255 and the fill.
    framed = np.zeros((SIDE, SIDE, 3), "uint8")
    framed[1:-1, 1:-1] = 255
    moved = name.startswith(("rotate", "shear", "translate"))
    bare, inside = apply(np.full_like(framed, 255), (0, 0, 0))[..., 0] == 0, apply(framed, (0, 0, 0))[..., 0] == 255
    sure = (bare | inside) if moved else np.ones((SIDE, SIDE), bool)
    assert sure.mean() > 0.9
    for photograph in photographs:
        image = np.array(Image.fromarray(photograph).resize((SIDE, SIDE)))
        for library, change in (("timm", in_pil), ("torchvision", in_torch)):
            if change is None:
                continue
            if library == "timm":
                theirs = np.array(change(Image.fromarray(image)))
            else:
                theirs = change(torch.from_numpy(image.transpose(2, 0, 1).copy())).numpy().transpose(1, 2, 0)
            found = share_off(apply(image), theirs)
            print(f"{name} {amount}: {found:.3%} of {library}'s pixels off by more than 1")
            assert found <= bound
            if moved:
                assert share_off(apply(image), theirs, sure) <= 1e-4, "away from borders"


@pytest.mark.parametrize(("mode", "bound"), [("bilinear", 0.0), ("bicubic", 0.001)])
def test_resizing_is_torchvisions(mode: Any, bound: float, photographs: list[np.ndarray]) -> None:
    """Of a random part, larger and smaller than the network's input. PIL's bicubic rounds between its two passes."""
    for photograph in photographs:
        for height, width in ((300, 400), (100, 120)):
            ours = np.round(resize(tf.constant(photograph[40 : 40 + height, 100 : 100 + width]), (SIDE, SIDE), mode))
            part = (Image.fromarray(photograph), 40, 100, height, width, [SIDE, SIDE], MODES[mode])
            found = share_off(ours, functional.resized_crop(*part))
            print(f"{height}x{width}, {mode}: {found:.3%} off by more than 1")
            assert found <= bound


@pytest.mark.parametrize(("mode", "bound"), [("bilinear", 0.0), ("bicubic", 0.001)])
@pytest.mark.parametrize(("crop", "side"), [(0.875, 256), (224 / 232, 232)])
def test_the_evaluation_crop_is_torchvisions(
    crop: float, side: int, mode: Any, bound: float, photographs: list[np.ndarray]
) -> None:
    """Of square images and margins of whole pixels.

    Other images have a longer side and margins of whole pixels there, and exact ones here, up to half a pixel aside.
    """
    for photograph in photographs:
        square = photograph[:420, :420]
        theirs = functional.center_crop(functional.resize(Image.fromarray(square), side, MODES[mode]), [SIDE, SIDE])
        found = share_off(resize_and_centre_crop(tf.constant(square), (SIDE, SIDE), crop, mode), theirs)
        print(f"crop {crop:.3f}, {mode}: {found:.3%} off by more than 1")
        assert found <= bound


def test_a_scaled_crop_is_torchvisions(photographs: list[np.ndarray]) -> None:
    for photograph in photographs:
        square, key = photograph[:420, :420], tf.constant([1, 2], tf.int64)
        ours = changes.random_scaled_crop(tf.constant(square), key, (SIDE, SIDE), 3, (1.0, 1.0))
        theirs = functional.resize(Image.fromarray(square), SIDE, MODES["bilinear"])
        assert share_off(np.round(ours), theirs) == 0


def test_padded_crops_and_mirrors_are_torchvisions(photographs: list[np.ndarray]) -> None:
    images = np.stack([photograph[:32, :32] for photograph in photographs])
    draws = changes.window_draws(tf.constant([1, 2], tf.int64), len(images), 4, flip=True)
    ours = changes.pad_crop_flip(tf.constant(images), draws, 4, tf.constant(FILL, tf.uint8)).numpy()
    for image, found, (top, left, mirrored) in zip(images, ours, draws.numpy(), strict=True):
        # Ours mirrors the window after it is placed in the columns, as theirs mirrors the cut image.
        cut = functional.crop(functional.pad(Image.fromarray(image), 4, FILL), int(top), int(left), 32, 32)
        assert share_off(found, functional.hflip(cut) if mirrored else cut) == 0


@pytest.mark.parametrize("number", range(4))
def test_jitter_is_torchvisions(number: int, photographs: list[np.ndarray]) -> None:
    """Where no pixel is clipped between the three steps, which ours clips once, at the end."""
    key = tf.constant([5, number], tf.int64)
    bright, contrast, saturation = (float(v) for v in tf.random.stateless_uniform([3], key, 1 - 0.2, 1 + 0.2))
    for photograph in photographs:
        image = (80 + 0.35 * photograph).astype("uint8")
        theirs = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255
        theirs = functional.adjust_contrast(functional.adjust_brightness(theirs, bright), contrast)
        theirs = functional.adjust_saturation(theirs, saturation).numpy().transpose(1, 2, 0) * 255
        assert share_off(changes.jitter(tf.constant(image), key, 0.2), theirs) == 0


def test_an_erased_rectangle_is_drawn_as_theirs() -> None:
    """Its place and sides; ours cuts one that is longer than the image, where theirs draws again."""
    from timm.data.random_erasing import RandomErasing as Timms  # pyright: ignore[reportMissingImports]
    from torchvision.transforms import RandomErasing as Torchvisions  # pyright: ignore[reportMissingImports]

    image, white = tf.constant(np.full((SIDE, SIDE, 3), 7, "uint8")), tf.constant([255, 255, 255], tf.uint8)
    erase = tf.function(lambda key: changes.erase(image, key, 1.0, white))
    torch.manual_seed(0)
    in_timm = Timms(probability=1, mode="const", device="cpu", min_area=0.02, max_area=0.33, min_aspect=0.3)
    in_torch = Torchvisions(p=1, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=255)

    def of_timm(_: int) -> np.ndarray:
        pixels = torch.full((3, SIDE, SIDE), 7.0)
        in_timm(pixels)
        return (pixels[0] == 0).numpy()

    ours = boxes(lambda i: erase(tf.constant([3, i], tf.int64)).numpy()[..., 0] == 255)
    for theirs in (boxes(of_timm), boxes(lambda _: (in_torch(torch.full((3, SIDE, SIDE), 7.0))[0] == 255).numpy())):
        for column in range(4):
            assert largest_gap(ours[:, column], theirs[:, column]) < 1.95 * np.sqrt(2 / COUNT), column


def boxes(erased: Callable[[int], np.ndarray]) -> np.ndarray:
    """Top, left, height and width of each of `COUNT` draws."""
    found = []
    for i in range(COUNT):
        mask = erased(i)
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        found.append((rows[0], columns[0], len(rows), len(columns)))
    return np.array(found)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_keep_as_much_of_themselves_as_timms(kind: str) -> None:
    """The share of an image that is kept, after CutMix's box is cut to the image."""
    from timm.data.mixup import cutmix_bbox_and_lam  # pyright: ignore[reportMissingImports]

    alpha = {"mixup": 0.2, "cutmix": 1.0}[kind]
    augmentation = Augmentation(**{kind: alpha})  # pyright: ignore[reportArgumentType]
    images, labels = tf.zeros([2, SIDE, SIDE, 3]), tf.eye(2)
    mix = tf.function(lambda key: changes.mix(images, labels, key, augmentation)[1][0, 0])
    ours = np.array([float(mix(tf.constant([3, i], tf.int64))) for i in range(COUNT)])
    np.random.seed(0)
    theirs = np.random.beta(alpha, alpha, COUNT)
    if kind == "cutmix":
        theirs = np.array([cutmix_bbox_and_lam((2, 3, SIDE, SIDE), share)[1] for share in theirs])
    assert largest_gap(ours, theirs) < 1.95 * np.sqrt(2 / COUNT)
