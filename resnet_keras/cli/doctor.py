"""`resnet-keras doctor`: what this machine can do, what is missing, and how to get it."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_keras.benchmarks.machine import cpu_flags, cpu_name, usable_cores, version_of
from resnet_keras.errors import reason
from resnet_keras.files import json_text
from resnet_keras.progress import counted

PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "keras-tuner", "tyro")
EXTRAS = {
    "serve": "the server and gRPC's health and reflection",
    "hub": "published weights from the Hugging Face Hub, and publish",
    "onnx": "export --format onnx",
    "remote": "folders in s3:// buckets",
    "mlflow": "train --track mlflow",
}
"""Extras of the package that users choose, and what each is for."""
GIB = 2**30
LEAST_DISK = 5 * GIB
LEAST_MEMORY = 4 * GIB


@dataclass(frozen=True)
class Check:
    """A line: what was looked at, what was found, and what to do where that is not fine."""

    what: str
    found: str
    advice: str | None = None

    @property
    def fine(self) -> bool:
        return self.advice is None


@dataclass(frozen=True)
class Doctor:
    """Say what this machine can do, what is missing, and how to get it."""

    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        checks = list(counted(examine(self.data_dir), "looking at this machine", unit=""))
        if self.json:
            print(json_text({"checks": [{**asdict(check), "fine": check.fine} for check in checks]}))
            return
        width = max(len(check.what) for check in checks)
        for check in checks:
            print(_in_columns(f"{'ok' if check.fine else '--'}  {check.what:{width}}  ", check.found))
            if check.advice:
                print(_in_columns(" " * (width + 6), check.advice))


def _in_columns(start: str, text: str) -> str:
    """Text behind the start of its line, on a terminal broken between words and indented."""
    if not sys.stdout.isatty():
        return start + text
    columns = max(shutil.get_terminal_size().columns, len(start) + 20)
    whole: Any = {"break_long_words": False, "break_on_hyphens": False}  # commands and paths are to be copied
    return textwrap.fill(text, columns, initial_indent=start, subsequent_indent=" " * len(start), **whole)


def examine(data_dir: str | None = None) -> Iterator[Check]:
    """All lines, in order."""
    yield _python()
    for name in ("resnet-keras", *PACKAGES):
        yield Check(name, version_of(name) or "not installed", None if version_of(name) else f"pip install {name}")
    for extra, purpose in EXTRAS.items():
        yield _extra(extra, purpose)
    yield from _devices()
    yield Check("CPU", _cpu())
    yield Check("cores", str(len(usable_cores())))
    yield from _memory()
    yield _xla()
    yield _onednn()
    yield _disk()
    yield _datasets(data_dir)
    yield _docker()


def _python() -> Check:
    newest = (3, 13)
    advice = None if sys.version_info[:2] <= newest else "it is tested on Python 3.11 to 3.13"
    return Check("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", advice)


def _extra(extra: str, purpose: str) -> Check:
    try:
        lines = importlib.metadata.requires("resnet-keras") or []
    except importlib.metadata.PackageNotFoundError:
        return Check(f"extra {extra}", "unknown: the package is not installed", "pip install -e . in the checkout")
    wanted = [line for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    names = [re.split(r"[\s\[<>=!~;(]", line)[0] for line in wanted]
    missing = [name for name in names if version_of(name) is None]
    if not missing:
        return Check(f"extra {extra}", f"installed: {purpose}")
    advice = f"for {purpose}: pip install 'resnet-keras[{extra}]'"
    return Check(f"extra {extra}", f"{', '.join(missing)} not installed", advice)


def _devices() -> Iterator[Check]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        built = tf.test.is_built_with_cuda()
        advice = None
        if shutil.which("nvidia-smi"):
            advice = "there is nvidia-smi, but TensorFlow sees no GPU: pip install 'tensorflow[and-cuda]'"
        found = f"none; TensorFlow is {'built with' if built else 'built without'} CUDA, so trains on the CPU"
        yield Check("GPUs", found, advice)
        yield Check("mixed precision", _cpu_precision())
        return
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    yield Check("GPUs", ", ".join(str(detail.get("device_name", "GPU")) for detail in details))
    least = min(detail.get("compute_capability") or (0, 0) for detail in details)
    if least >= (8, 0):
        yield Check("mixed precision", "--precision mixed_bfloat16")
    elif least >= (7, 0):
        yield Check("mixed precision", "--precision mixed_float16: these GPUs have no bfloat16")
    else:
        yield Check("mixed precision", "float32: these GPUs have no tensor cores")


def _cpu_precision() -> str:
    if {"avx512_bf16", "amx_bf16"} & set(cpu_flags()):
        return "float32; this CPU computes in bfloat16 too, so measure --precision mixed_bfloat16"
    return "float32: this CPU does not say that it computes in bfloat16"


def _cpu() -> str:
    return f"{cpu_name()}, {' '.join(cpu_flags()) or 'features unknown'}"


def _memory() -> Iterator[Check]:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with contextlib.suppress(ValueError, OSError):  # a container may have less; "max" is no number
            size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
        advice = "choose a small --batch-size and --image-size" if size < LEAST_MEMORY else None
        yield Check("memory", f"{size / GIB:.1f} GiB", advice)


def _xla() -> Check:
    import tensorflow as tf

    try:
        double = tf.function(lambda x: x + x, jit_compile=True)
        works = double(tf.constant(1.0)).numpy() == 2.0
    except tf.errors.OpError as error:
        return Check("XLA", f"does not compile: {reason(error)}", "train with --xla off")
    return Check("XLA", "compiles" if works else "computes wrongly", None if works else "train with --xla off")


def _onednn() -> Check:
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        advice = "unset TF_ENABLE_ONEDNN_OPTS, unless results are to be those of other machines"
        return Check("oneDNN", "off by TF_ENABLE_ONEDNN_OPTS=0, which is slower on a CPU", advice)
    return Check("oneDNN", "as TensorFlow chooses: on for CPUs that it supports")


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    advice = "runs with checkpoints and data sets may not fit; use --run-dir and --data-dir of another disk"
    return Check("free disk here", f"{free / GIB:.1f} GiB", advice if free < LEAST_DISK else None)


def _datasets(data_dir: str | None) -> Check:
    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    prepared = sorted({str(file.parent.relative_to(folder)) for file in folder.glob("**/dataset_info.json")})
    found = ", ".join(prepared) if prepared else "nothing is prepared"
    return Check("TensorFlow Datasets", f"{folder}: {found}")


def _docker() -> Check:
    docker = shutil.which("docker")
    if docker is None:
        advice = "for TensorFlow Serving's own image only; resnet-keras serve does without"
        return Check("Docker", "not installed", advice)
    try:
        done = subprocess.run([docker, "info"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Check("Docker", "does not answer", "start its daemon")
    if done.returncode:
        return Check("Docker", "installed, but its daemon cannot be reached", "start it, or join the group docker")
    return Check("Docker", "runs")
