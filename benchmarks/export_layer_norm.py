"""Servables of ConvNeXt-T and ViT-S/16 beside `model.export()` of others' and of our own, in one run.

Command: python -m benchmarks.export_layer_norm [--networks NAME ...] [--batches 1 8] [--pairs N]. The peers are
keras.applications.ConvNeXtTiny, KerasHub's ViT (where keras_hub can be imported), and our own network as Keras exports
it. Weights are random. Ours read raw uint8 pixels and normalise them; the others get normalised float32.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tyro

from resnet_keras.benchmarks.pairs import paired_ratio

SIDE = 224
PAUSE = 0.1
"""Seconds before each timing, in which the other program's threads stop looking for work."""


@dataclass
class Arguments:
    """Time exports of networks of layer norm."""

    networks: tuple[str, ...] = ("convnext_tiny", "vit_s16")
    batches: tuple[int, ...] = (1, 8)
    pairs: int = 11
    images: int = 8
    """In each timing, at least."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


def main(arguments: Arguments) -> None:
    print(f"{SIDE}x{SIDE}, TensorFlow {tf.__version__}, Keras {keras.__version__}, pairs {arguments.pairs}")
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            speeds(network, arguments, Path(folder))


def speeds(network: str, arguments: Arguments, folder: Path) -> None:
    """Print images/s and paired ratios of one network."""
    rng = np.random.default_rng(0)
    ours = with_random_weights(rk.create_model(network, include_preprocessing=True), rng)
    images = rng.integers(0, 256, (max(arguments.batches), SIDE, SIDE, 3), "uint8")
    normal = rng.normal(size=images.shape).astype("float32")
    servables = {dtype: rk.export_servable(ours, folder / dtype, dtype=dtype) for dtype in arguments.dtypes}
    wanted = np.asarray(ours(images.astype("float32"), training=False), "float64")
    for dtype, path in servables.items():
        apart = np.abs(session(path, "serving_default", images)() - wanted).max() / wanted.max()
        print(f"{network} {dtype}: probabilities apart {apart:.1e} of the largest")
    peers: dict[str, Path] = {}
    for name, model in peers_of(network).items():
        peers[name] = folder / f"peer{len(peers)}"
        with_random_weights(model, rng).export(peers[name], verbose=False)
    for batch in arguments.batches:
        times = -(-arguments.images // batch)
        for dtype, path in servables.items():
            own = session(path, "serving_default", images[:batch])
            for name, where in peers.items():
                other = again(session(where, "serving_default", normal[:batch]), times)
                mine, theirs, ratio = paired_ratio(again(own, times), other, arguments.pairs, PAUSE)
                speed, peer_speed = batch * times / mine, batch * times / theirs
                print(
                    f"{network:13} batch {batch}  {dtype:9} {speed:6.1f}/s   {name:32} {peer_speed:6.1f}/s   {ratio}",
                    flush=True,
                )


def peers_of(network: str) -> dict[str, keras.Model]:
    """The same network by others, without preprocessing, and our own for Keras's export."""
    found = {"ours, model.export()": rk.create_model(network)}
    if network == "convnext_tiny":
        made = keras.applications.ConvNeXtTiny(weights=None, include_preprocessing=False)
        return {"keras.applications, model.export()": made, **found}
    try:
        import keras_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"KerasHub is left out: {error}")
        return found
    sizes = {"num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536}
    backbone = keras_hub.models.ViTBackbone((SIDE, SIDE, 3), (16, 16), **sizes)
    made = keras_hub.models.ViTImageClassifier(backbone, num_classes=1000, pooling="token", activation="softmax")
    return {"KerasHub, model.export()": made, **found}


def with_random_weights(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    """The same model: no gamma is 1e-6, no bias zero, as in a trained network."""
    for variable in model.weights:
        if variable.name == "gamma":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif len(variable.shape) == 1:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


def again(program: Callable[[], object], times: int) -> Callable[[], None]:
    """A program so many times, for answers that take a few milliseconds."""

    def run() -> None:
        for _ in range(times):
            program()

    return run


def session(folder: Path, signature: str, images: np.ndarray) -> Callable[[], np.ndarray]:
    """A SavedModel's answer to some images, in a session, as TensorFlow Serving runs it."""
    running = tf.compat.v1.Session(graph=tf.Graph())
    with running.graph.as_default():
        meta = tf.compat.v1.saved_model.load(running, [tf.saved_model.SERVING], str(folder))
    chosen = meta.signature_def[signature]
    (given,), (wanted,) = chosen.inputs.values(), chosen.outputs.values()
    call = running.make_callable(wanted.name, [given.name])
    return lambda: call(images)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
