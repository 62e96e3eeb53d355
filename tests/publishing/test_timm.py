"""What is published, loaded by timm: the same tensors, names, logits, labels and image preparation.

`make test-interop` installs torch, torchvision and timm for it.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
from small import randomise

import resnet_keras as rk
from resnet_keras.publishing.tensors import TIMM

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
CARD = rk.ModelCard(
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.6, 0.7),
    crop=0.8,
    interpolation="bicubic",
    labels=tuple("abcdefg"),
    label_ids=tuple(f"n{i}" for i in range(7)),
)


def timm() -> Any:
    try:  # without CUDA, torchvision's own operators are not there; the networks need none of them
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
    return pytest.importorskip("timm", reason="timm is not installed")


def tame(model: keras.Model) -> None:
    """Random weights and statistics, of which no signal dies or explodes."""
    randomise(model)
    for variable in model.weights:
        if "/se/" in variable.path and len(variable.shape) > 1:
            variable.assign(variable * 0.1)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("resnet50", 64),
        ("resnet50d", 64),
        ("resnetrs50", 64),
        ("resnet50_v2", 64),
        ("resnext50_32x4d", 64),
        ("wide_resnet50_2", 64),
        ("seresnet50", 64),
        ("seresnext50_32x4d", 64),
        ("densenet121", 64),
        ("vgg11", 64),
        ("convnext_tiny", 64),
        ("vit_ti16", 224),
        ("vgg16_bn", 224),
    ],
)
def test_timm_gives_our_logits(name: str, size: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"classes": 7, "input_shape": (size, size, 3), "include_preprocessing": CARD}
    model = rk.create_model(name, **options)
    tame(model)
    model.save(tmp_path / "net.keras")
    done = rk.publish(tmp_path / "net.keras", tmp_path / "net", license="mit")
    assert done.timm == TIMM[name]

    theirs = timm().create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3))
    images = ((pixels / 255 - CARD.mean) / CARD.std).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = keras.Model(model.input, model.get_layer("logits").output)(pixels.astype("float32"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1

    # Every tensor is there by its name and in its shape, so that nothing is loaded by leniency.
    stored = safetensors.numpy.load_file(tmp_path / "net" / "model.safetensors")
    assert {k: tuple(v.shape) for k, v in stored.items()} == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}

    use = timm().data.resolve_model_data_config(theirs)
    assert (use["input_size"], use["mean"], use["std"]) == ([3, size, size], list(CARD.mean), list(CARD.std))
    assert (use["crop_pct"], use["interpolation"], use["crop_mode"]) == (0.8, "bicubic", "center")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["num_features"] == theirs.num_features
    info = timm().data.CustomDatasetInfo(config["label_names"], config["label_descriptions"])
    assert [info.index_to_description(i) for i in range(7)] == list("abcdefg")

    # For other classes, timm leaves our head out by its name.
    other = timm().create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=3)
    assert torch.equal(next(iter(other.parameters())), next(iter(theirs.parameters())))
    grey = timm().create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, in_chans=1)
    assert next(iter(grey.parameters())).shape[1] == 1
    shutil.rmtree(tmp_path / "net")


def test_timm_has_every_name() -> None:
    assert [name for name in TIMM.values() if not timm().is_model(name)] == []


def test_what_timm_does_not_have_it_says(tmp_path: Path) -> None:
    rk.publish("cifar10-jpeg", tmp_path / "net")
    with pytest.raises(RuntimeError, match=r"Unknown model \(resnet_keras.cifar_resnet20\)"):
        timm().create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)


def test_a_net_of_bgr_is_one_of_rgb_there(tmp_path: Path) -> None:
    """As those of keras.applications are."""
    model = rk.create_model("vgg11", classes=7, input_shape=(64, 64, 3), include_preprocessing=False)
    tame(model)
    layer: Any = model.get_layer("card")
    layer.card = dataclasses.replace(layer.card, mean=(0.4, 0.5, 0.6), std=(1 / 255,) * 3, channels="BGR")
    model.save(tmp_path / "net.keras")
    rk.publish(tmp_path / "net.keras", tmp_path / "net")
    theirs = timm().create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    ours = rk.preprocess_input(pixels, model)
    images = ((pixels / 255 - (0.4, 0.5, 0.6)) * 255).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = np.asarray(keras.Model(model.input, model.get_layer("logits").output)(ours))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
