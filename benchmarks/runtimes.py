"""Predictions by ONNX Runtime and OpenVINO as programs. Their files are made by `benchmarks.files`, in another process.

Without TensorFlow: in one process, threads of two libraries slow each other down.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.files import FLOAT, INT8, PIXELS
from resnet_keras.benchmarks.predictions import Answer, predictions
from resnet_keras.benchmarks.variants import Program
from resnet_keras.errors import UsageError

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def onnx_runtime(folder: str) -> Program:
    """ONNX Runtime on the CPU, as it comes."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(_file(folder, FLOAT)), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _program(folder, lambda images: session.run(None, {name: images})[0], "float32")


def openvino(folder: str, dtype: str) -> Program:
    """OpenVINO on the CPU with its hint for short latency; int8 by NNCF."""
    import openvino as ov  # pyright: ignore[reportMissingImports]

    core = ov.Core()
    model = core.read_model(str(_file(folder, INT8 if dtype == "int8" else FLOAT)))
    hints = {"INFERENCE_PRECISION_HINT": HINTS[dtype], "PERFORMANCE_HINT": "LATENCY"}
    requests: dict[int, Any] = {}

    def answer(images: np.ndarray) -> np.ndarray:
        if len(images) not in requests:  # it is faster for a batch that it knows
            model.reshape({model.input(0): images.shape})
            requests[len(images)] = core.compile_model(model, "CPU", hints).create_infer_request()
        return requests[len(images)].infer({0: images})[0]

    return _program(folder, answer, dtype)


def _program(folder: str, answer: Answer, dtype: str) -> Program:
    about = json.loads(_file(folder, PIXELS).read_text("utf-8"))
    mean, std = (np.array(about[name], "float32") for name in ("mean", "std"))

    def prepared(images: np.ndarray) -> np.ndarray:
        return (images.astype("float32") / 255 - mean) / std

    return predictions(tuple(about["shape"]), answer, {"macs": about["macs"], "dtype": dtype}, prepared)


def _file(folder: str, name: str) -> Path:
    path = Path(folder, name)
    if not path.exists():
        raise UsageError(f"there is no {name}: it could not be made here")
    return path
