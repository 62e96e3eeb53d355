"""What `doctor` finds on a machine, and what it says of one that lacks something."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from resnet_keras.cli import doctor
from resnet_keras.cli.doctor import Check, examine
from resnet_keras.cli.main import main
from resnet_keras.version import __version__

Capture = pytest.CaptureFixture[str]


def found() -> dict[str, Check]:
    return {check.what: check for check in examine()}


def test_this_machine(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
    assert main(["doctor", "--data-dir", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    checks = {check["what"]: check for check in json.loads(out)["checks"]}
    assert checks["resnet-keras"]["found"] == importlib.metadata.version("resnet-keras")
    assert checks["tensorflow"]["found"] == importlib.metadata.version("tensorflow")
    assert checks["XLA"] == {"what": "XLA", "found": "compiles", "advice": None, "fine": True}
    assert checks["extra serve"]["fine"]  # the tests need it
    assert checks["TensorFlow Datasets"]["found"] == f"{tmp_path}: cifar10/3.0.2"
    assert {"Python", "GPUs", "mixed precision", "CPU", "cores", "memory", "oneDNN", "Docker"} < set(checks)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok  XLA ") for line in lines)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "uvicorn":
            raise importlib.metadata.PackageNotFoundError(name)
        return __version__

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    checks = found()
    assert checks["extra serve"].found == "uvicorn not installed"
    assert "pip install 'resnet-keras[serve]'" in (checks["extra serve"].advice or "")
    assert checks["extra hub"].fine
    assert checks["Docker"].found == "not installed"
    assert checks["free disk here"].found == "1.0 GiB"
    assert not checks["free disk here"].fine
    assert not checks["oneDNN"].fine


@pytest.mark.parametrize(
    ("capability", "precision"), [((9, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"), ((6, 1), "float32")]
)
def test_precision_of_gpus(capability: Any, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"device_name": "A GPU", "compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    gpus, advice = doctor._devices()
    assert gpus.found == "A GPU"
    assert precision in advice.found


def test_a_gpu_that_tensorflow_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    devices: Iterator[Check] = doctor._devices()
    assert "pip install 'tensorflow[and-cuda]'" in (next(devices).advice or "")


@pytest.mark.parametrize(("code", "words"), [(0, "runs"), (1, "cannot be reached")])
def test_docker(code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: SimpleNamespace(returncode=code))
    assert words in doctor._docker().found


def test_lines_are_broken_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "for export --format onnx: pip install 'resnet-keras[onnx]'"
    assert doctor._in_columns("--  extra onnx  ", text) == f"--  extra onnx  {text}"
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "44")
    first, *rest = doctor._in_columns("--  extra onnx  ", text).splitlines()
    assert first == "--  extra onnx  for export --format onnx:"
    assert [line.removeprefix(" " * 16) for line in rest] == ["pip install", "'resnet-keras[onnx]'"]
