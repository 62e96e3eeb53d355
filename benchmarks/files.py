"""The files of a network that peers and servers read: made once, in a process of its own, before anything is timed."""

import contextlib
import json
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.variants import Program

FLOAT, INT8, PIXELS = "float32.onnx", "int8.xml", "pixels.json"
SUBSET = 64
"""Images that NNCF calibrates with."""


def peers(folder: str, model: str, image_size: int) -> Program:
    """ONNX of a network without its normalisation, the same quantised by NNCF, and what the pixels are normalised by.

    A file of a library that is missing or fails is left out; `facts` say why, by its name.
    """
    from resnet_keras.startup import import_tensorflow

    import_tensorflow()
    import numpy as np

    from resnet_keras.benchmarks.inference import network_of
    from resnet_keras.models.complexity import complexity, create_model
    from resnet_keras.models.preprocessing import model_card

    where, left_out = Path(folder), {}
    whole = network_of(model, image_size)
    shape = whole.input_shape[1:]
    card, bare = model_card(whole), create_model(model, input_shape=shape)
    bare.set_weights(whole.get_weights())
    pixels = {"mean": card.mean, "std": card.std, "shape": shape, "macs": complexity(whole).macs}
    (where / PIXELS).write_text(json.dumps(pixels), "utf-8")
    images = np.random.default_rng(1).integers(0, 256, (SUBSET, *shape)).astype("float32")
    images = ((images / 255 - np.array(card.mean, "float32")) / np.array(card.std, "float32")).astype("float32")
    with noted(left_out, FLOAT):
        bare(images[:1])  # Keras wants it
        bare.export(where / FLOAT, format="onnx", verbose=False)
    with noted(left_out, INT8):
        import nncf  # pyright: ignore[reportMissingImports]
        import openvino  # pyright: ignore[reportMissingImports]

        quantized = nncf.quantize(
            openvino.Core().read_model(str(where / FLOAT)), nncf.Dataset(list(images[:, None])), subset_size=SUBSET
        )
        openvino.save_model(quantized, str(where / INT8))
    return Program(lambda: None, facts={"left_out": left_out})


def servables(folder: str, model: str, dtypes: list[str]) -> Program:
    """A servable of each dtype, at FOLDER/MODEL-DTYPE; of a name that is one of the package's own, its weights."""
    from resnet_keras.startup import import_tensorflow

    import_tensorflow()

    from resnet_keras.benchmarks.inference import calibration, network_of
    from resnet_keras.export.servable import export_servable

    network = network_of(model, None)
    for dtype in dtypes:
        export_servable(network, Path(folder, f"{model}-{dtype}"), dtype=dtype, **calibration(network, dtype))
    return Program(lambda: None)


@contextlib.contextmanager
def noted(left_out: dict[str, str], name: str) -> Any:
    """What fails within it is written down; a converter may fail in any way, and the other peers go on."""
    try:
        yield
    except Exception as error:
        left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
