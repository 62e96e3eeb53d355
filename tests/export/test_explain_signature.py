"""The signature `explain`: what `rk.explain` finds, without gradients."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import randomise
from tensorflow.core.protobuf import saved_model_pb2

import resnet_keras as rk
from resnet_keras.export.comparison import run_servable

RNG = np.random.default_rng(0)
SIDE = 32
EXIF = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def net(kind: str) -> keras.Model:
    shape: dict[str, Any] = {"classes": 6, "input_shape": (SIDE, SIDE, 3)}
    model = {
        "residual": lambda: rk.build_cifar_resnet(8, include_preprocessing=rk.ModelCard(crop=0.875), **shape),
        "logits": lambda: rk.build_cifar_resnet(8, classifier_activation=None, **shape),
        "preactivation": lambda: rk.build_cifar_resnet(11, "v2", **shape),
        "densenet": lambda: rk.build_densenet(10, stem="cifar", **shape),
        "vgg": lambda: rk.build_vgg(11, widths=(4, 4, 8, 8, 8), hidden=16, **shape),
        "one pixel": lambda: rk.build_resnet(18, widths=(4, 4, 8, 8), stem_width=4, **shape),
    }[kind]()
    randomise(model)
    return model


def files(folder: Path) -> list[Path]:
    """A wide PNG file, and a JPEG file that a phone stored lying."""
    wide, lying = folder / "wide.png", folder / "lying.jpg"
    wide.write_bytes(tf.io.encode_png(RNG.integers(0, 256, (40, 70, 3), "uint8")).numpy())
    encoded = tf.io.encode_jpeg(RNG.integers(0, 256, (40, 60, 3), "uint8")).numpy()
    lying.write_bytes(encoded[:2] + EXIF + encoded[2:])
    return [wide, lying]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("residual", "float32"),
        pytest.param("residual", "bfloat16", marks=pytest.mark.slow),  # 3 s each, as the next
        pytest.param("logits", "float32", marks=pytest.mark.slow),
        pytest.param("preactivation", "float32", marks=pytest.mark.slow),
        pytest.param("densenet", "float32", marks=pytest.mark.slow),
    ],
)
def test_the_heat_is_that_of_explain(kind: str, dtype: str, tmp_path: Path) -> None:
    model, paths = net(kind), files(tmp_path)
    folder = rk.export_servable(model, tmp_path / "net", dtype=dtype, top_k=3)
    encoded = np.array([path.read_bytes() for path in paths], object)
    named, found = (
        run_servable(folder, {signature: {"image_bytes": encoded}})[signature]
        for signature in ("image_bytes", "explain")
    )
    np.testing.assert_array_equal(found["labels"], named["labels"])
    np.testing.assert_array_equal(found["scores"], named["scores"])
    assert (found["heat"].dtype, found["window"].dtype) == (np.float32, np.float32)
    drawn = 0
    for row, path in enumerate(paths):
        for column, label in enumerate(found["labels"][row]):
            expected = rk.explain(model, path, label=label.decode())
            assert found["heat"].shape[1:] == (3, *expected.map_size)
            heat = tf.image.resize(found["heat"][row, column][..., None], (SIDE, SIDE)).numpy()[..., 0]
            assert found["heat"][row, column].max() == (0.0 if expected.empty else 1.0)
            exact = dtype == "float32"
            np.testing.assert_allclose(heat / (heat.max() or 1), expected.heat, atol=1e-4 if exact else 0.1)
            assert expected.image is not None
            assert expected.window is not None
            sides = np.tile(expected.image.shape[:2], 2)
            np.testing.assert_allclose(found["window"][row] * sides, expected.window, atol=1e-4)
            drawn += not expected.empty
    assert drawn


@pytest.mark.parametrize("kind", ["vgg", pytest.param("one pixel", marks=pytest.mark.slow)])
def test_a_network_that_has_no_such_map_has_no_such_signature(kind: str, tmp_path: Path) -> None:
    folder = rk.export_servable(net(kind), tmp_path / "net")
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    assert set(saved.meta_graphs[0].signature_def) == {"serving_default", "image_bytes", "features"}


def test_it_costs_no_weight_twice(tmp_path: Path) -> None:
    """The constants of the graph of 1,000 classes are the weights of the model, once."""
    model = rk.build_cifar_resnet(8, classes=1000)
    folder = rk.export_servable(model, tmp_path / "net")
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (meta,) = saved.meta_graphs
    assert "explain" in meta.signature_def
    large = [
        node for node in meta.graph_def.node if node.op == "Const" and node.attr["value"].tensor.ByteSize() > 200_000
    ]
    assert len(large) == 1  # the dense layer's kernel, 64 x 1,000


def test_a_damaged_image_takes_nothing_from_the_others(tmp_path: Path) -> None:
    folder = rk.export_servable(net("residual"), tmp_path / "net")
    good = files(tmp_path)[0].read_bytes()
    alone, among = (
        run_servable(folder, {"explain": {"image_bytes": np.array(images, object)}})["explain"]
        for images in ([good], [good[:60], b"junk", good, b"\xff\xd8\xff\xe0"])
    )
    np.testing.assert_allclose(among["heat"][2], alone["heat"][0], atol=1e-5)
    np.testing.assert_allclose(among["window"][2], alone["window"][0])
    assert [labels[0] for labels in among["labels"]] == [b"", b"", alone["labels"][0, 0], b""]
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image can be read"):
        run_servable(folder, {"explain": {"image_bytes": np.array([b"junk"], object)}})
