"""The whole way once, on the embedded digits: train, evaluate, export, ask the SavedModel, predict, serve."""

import dataclasses
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
from resnet_keras.export.servable import export_servable
from resnet_keras.inference.evaluate import evaluate
from resnet_keras.inference.predict import predict
from resnet_keras.serving.client import Reply, ServerClient
from resnet_keras.serving.process import server_process
from resnet_keras.training.trainer import train

ASK = Path(__file__).parents[1] / "export" / "ask_servable.py"


def demo(run_dir: str | None, output: str, data_dir: str | None, *, quiet: bool = False) -> dict[str, Any]:
    """Run the demo; returns what it found and where everything is."""
    config = dataclasses.replace(recipe("digits"), name="demo", run_dir=run_dir, data_dir=data_dir)
    folder = train(config, quiet=quiet).run_dir
    measured = evaluate(folder, data_dir=data_dir)
    version = export_servable(folder, output)
    image, label = _write_image(folder, data_dir)
    answer = ask_in_new_process(version, image)
    prediction = predict(folder, [image])[0]
    served = ask_server(version.parent, image)
    return {
        "test_accuracy": round(measured.accuracy, 4),
        "test_images": measured.examples,
        "image": str(image),
        "true_label": label,
        "model_says": f"{prediction.labels[0]} ({prediction.scores[0]:.4f})",
        "servable_says": f"{answer['labels'][0]} ({answer['scores'][0]:.4f})",
        "server_says": f"{served.labels[0]} ({served.scores[0]:.4f}), version {served.version}",
        "run_folder": str(folder),
        "report": str(folder / REPORT),
        "saved_model": str(version),
    }


def ask_in_new_process(version: Path, image: Path) -> dict[str, Any]:
    """The answer of a SavedModel for an image, from a process that does not import this package."""
    program = [sys.executable, "-P", str(ASK), str(version), str(image)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{version} gave no answer in a new process:\n{done.stderr}")
    return json.loads(done.stdout)


def ask_server(base: Path, image: Path) -> Reply:
    """The answer that a server of a model's folder gives over REST; it runs for that long."""
    with server_process(["--model_name", base.name, "--model_base_path", str(base)]) as server:
        (answer,) = ServerClient(server.rest, base.name).send([str(image)])
    if answer.error is not None:
        raise RuntimeError(f"the server gave no answer: {answer.error}")
    return answer


def _write_image(folder: Path, data_dir: str | None) -> tuple[Path, str]:
    """The first test image as a PNG file."""
    source = open_source("digits", data_dir)
    assert isinstance(source.test, ArraySplit)
    path = folder / "digit.png"
    path.write_bytes(tf.io.encode_png(source.test.images[0]).numpy())
    return path, source.labels[source.test.targets[0]]
