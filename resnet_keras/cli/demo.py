"""The whole way once, on the embedded digits: train, evaluate, export, predict by the SavedModel and a server."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from resnet_keras.config.recipes import recipe
from resnet_keras.config.run_folder import REPORT
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import ArraySplit
from resnet_keras.errors import UsageError, needs_extra
from resnet_keras.export.servable import export_servable
from resnet_keras.inference.evaluate import evaluate
from resnet_keras.inference.predict import predict
from resnet_keras.serving.client import ServerClient
from resnet_keras.serving.process import server_process
from resnet_keras.training.trainer import train

SERVABLE_PROGRAM = Path(__file__).parents[1] / "export" / "ask_servable.py"


def demo(
    run_dir: str | None, output: str, data_dir: str | None, *, seed: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """Run the demo; returns what it found and where everything is.

    Without the extra `serve` no server is tried, and `server_says` tells how to install it.
    """
    config = dataclasses.replace(recipe("digits"), name="demo", run_dir=run_dir, data_dir=data_dir, seed=seed)
    folder = train(config, quiet=quiet).run_dir
    measured = evaluate(folder, data_dir=data_dir)
    version = export_servable(folder, output)
    image, label = _write_image(folder, data_dir)
    answer = predict_in_new_process(version, image)
    prediction = predict(folder, [image])[0]
    return {
        "test_accuracy": round(measured.accuracy, 4),
        "test_images": measured.examples,
        "image": str(image),
        "true_label": label,
        "model_says": f"{prediction.labels[0]} ({prediction.scores[0]:.4f})",
        "servable_says": f"{answer['labels'][0]} ({answer['scores'][0]:.4f})",
        "server_says": predict_by_server(version.parent, image),
        "run_folder": str(folder),
        "report": str(folder / REPORT),
        "saved_model": str(version),
    }


def predict_in_new_process(version: Path, image: Path) -> dict[str, Any]:
    """What a SavedModel predicts for an image, in a process that does not import this package."""
    program = [sys.executable, "-P", str(SERVABLE_PROGRAM), str(version), str(image)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{version} gave no answer in a new process:\n{done.stderr}")
    return json.loads(done.stdout)


def predict_by_server(base: Path, image: Path) -> str:
    """What a server of a model's folder predicts over REST; it runs for that long."""
    try:
        with needs_extra("serve", "serve"):
            importlib.import_module("resnet_keras.serving.server")
    except UsageError as error:
        return f"not tried: {error}"
    with server_process(["--model_name", base.name, "--model_base_path", str(base)]) as server:
        (reply,) = ServerClient(server.rest, base.name).send([str(image)])
    if reply.error is not None:
        raise RuntimeError(f"the server gave no prediction: {reply.error}")
    return f"{reply.labels[0]} ({reply.scores[0]:.4f}), version {reply.version}"


def _write_image(folder: Path, data_dir: str | None) -> tuple[Path, str]:
    """The first test image as a PNG file."""
    source = open_source("digits", data_dir)
    assert isinstance(source.test, ArraySplit)
    path = folder / "digit.png"
    path.write_bytes(tf.io.encode_png(source.test.images[0]).numpy())
    return path, source.labels[source.test.targets[0]]
