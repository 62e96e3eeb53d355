"""Servables in the TensorFlow of released servers: the answers of ours, and the table of what each does not know.

`make test-serving-versions` makes an environment for each of its `SERVERS`, such as `.venv/serving-2.20.0`.
"""

import base64
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from released import FAMILIES, LongShape, WebP, classifier_with, network_of, webp
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2

import resnet_keras as rk
from resnet_keras.export import kernels
from resnet_keras.export.graph_needs import type_name
from resnet_keras.export.quantized import available
from resnet_keras.export.releases import RELEASES, release_of
from resnet_keras.export.servable import manifest_of

pytestmark = pytest.mark.serving_versions
ROOT = Path(rk.__file__).parents[1]
PROGRAM = ROOT / "tests" / "other_tensorflow.py"
(SERVERS,) = re.findall(r"^SERVERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
VERSIONS = {release_of(version): version for version in SERVERS.split()}
OURS, OTHERS = release_of(tf.__version__), tuple(VERSIONS)
DTYPES = ("float32", "bfloat16", "int8")
NOT_IN_INT8 = ("convnext_tiny", "vit_ti16", "recurrent")
"""An export in int8 is refused."""
IN_FILES = " in files"
"""Behind a family's name: its kernels are variables, as those of large networks are."""
LARGE = ("convnext_tiny-float32",)
"""Whose kernels are in files without more."""
ANY = (*FAMILIES, "recurrent", f"resnet50_v1{IN_FILES}", f"vit_ti16{IN_FILES}")
CASES = [
    f"{family}-{dtype}"
    for family in ANY
    for dtype in DTYPES
    if dtype != "int8" or (available() and family not in NOT_IN_INT8 and IN_FILES not in family)
]
SAME_ONEDNN = ("2.20",)
"""As TensorFlow 2.21: 3.7.3. TensorFlow 2.19 has 3.5.0."""
APART = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.02}
"""Of the largest value of an output: a rounding of bfloat16 is 2**-8 of a value, of int8 1/255 of a map's range."""
RNG = np.random.default_rng(0)
FORMATS: tuple[Callable[[np.ndarray], bytes], ...] = (
    lambda x: tf.io.encode_png(x).numpy(),
    lambda x: tf.io.encode_jpeg(x).numpy(),
    lambda x: tf.io.encode_jpeg(np.repeat(x, 2, 1)).numpy(),
    lambda x: b"no image",
    webp,
)
NO_IMAGE, WEBP = 3, 4
"""Places among them."""


def recurrent() -> keras.Model:
    """Called as it is, with lists of tensors: an attribute of theirs, at its default, is newer than both servers."""
    return classifier_with(keras.layers.Reshape((-1, 8)), keras.layers.LSTM(8), size=32)


def write_request(model: keras.Model, folder: Path) -> None:
    images = RNG.integers(0, 256, (len(FORMATS), *model.input_shape[1:]), "uint8")
    data = {"shape": images.shape, "data": base64.b64encode(images.tobytes()).decode()}
    files = [base64.b64encode(write(image)).decode() for write, image in zip(FORMATS, images, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "request.json").write_text(json.dumps({"image": data, "image_bytes": files}))


@pytest.fixture(scope="module")
def servables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A servable of each case, and two that servers do not know; each with what it is asked."""
    base = tmp_path_factory.mktemp("servables")
    write_servables(base)
    return base


def write_servables(base: Path) -> None:
    for family in ANY:
        model = recurrent() if family == "recurrent" else network_of(family.removesuffix(IN_FILES))
        images = RNG.integers(0, 256, (256, *model.input_shape[1:]), "uint8")
        for case in (case for case in CASES if case.startswith(f"{family}-")):
            dtype = case.removeprefix(f"{family}-")
            more: dict[str, Any] = {"calibration_data": images, "max_accuracy_loss": 100.0} if dtype == "int8" else {}
            with pytest.MonkeyPatch.context() as patch:
                if IN_FILES in family:
                    patch.setattr(kernels, "MOST", dict.fromkeys(kernels.MOST, 0))
                folder = rk.export_servable(model, base / case, dtype=dtype, for_serving="2.19", **more)
            assert (folder / "variables").is_dir() == (IN_FILES in family or case in LARGE)
            write_request(model, base / case)
        keras.backend.clear_session()
    for name, layer in (("new-in-2.20", WebP()), ("new-in-2.21", LongShape())):
        model = classifier_with(keras.layers.GlobalAveragePooling2D(), layer)
        rk.export_servable(model, base / name)
        write_request(model, base / name)


@pytest.fixture(scope="module")
def answers(servables: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of what a release answers, in a process of its own."""

    @functools.cache
    def of(release: str) -> Path:
        other = ROOT / ".venv" / f"serving-{VERSIONS.get(release)}" / "bin" / "python"
        python = Path(sys.executable) if release == OURS else other
        assert python.is_file(), f"{python} is not there; make test-serving-versions makes it"
        out = tmp_path_factory.mktemp(f"answers-{release}-")
        done = subprocess.run(
            [python, "-P", PROGRAM, servables, out], capture_output=True, text=True, check=False, timeout=1800
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert release_of(json.loads((out / "versions.json").read_text())["tensorflow"]) == release
        return out

    return of


def answers_in(folder: Path, case: str) -> dict[str, np.ndarray]:
    error = folder / f"{case}.error"
    assert not error.exists(), error.read_text()
    with np.load(folder / f"{case}.npz") as found:
        return dict(found)


@pytest.mark.parametrize("release", OTHERS)
@pytest.mark.parametrize("case", CASES)
def test_a_server_answers_as_our_tensorflow(case: str, release: str, answers: Callable[[str], Path]) -> None:
    """Networks of convolutions to the last bit where oneDNN is the same; the others, measured, differ by rounding."""
    family, dtype = case.split("-")
    exact = release in SAME_ONEDNN and family.removesuffix(IN_FILES) not in NOT_IN_INT8
    expected, got = answers_in(answers(OURS), case), answers_in(answers(release), case)
    assert set(got) == set(expected)
    kinds = {key.rpartition("/")[0] for key in got}
    sessions = {f"session/{name}" for name in ("serving_default", "image_bytes", "features")}
    assert kinds >= {"functions/serving_default", *sessions}
    for key, value in expected.items():
        files = key.split("/")[1] in ("image_bytes", "explain")
        rows = [i for i in range(len(value)) if RELEASES[release].decodes_webp or not files or i != WEBP]
        given, answered = value[rows], got[key][rows]
        if exact or value.dtype.kind != "f":
            np.testing.assert_array_equal(answered, given, key)
        else:
            largest = np.nanmax(np.abs(given))
            np.testing.assert_allclose(answered, given, rtol=0, atol=APART[dtype] * largest, err_msg=key)


@pytest.mark.parametrize("release", [OURS, *OTHERS])
def test_which_files_a_server_reads(release: str, answers: Callable[[str], Path]) -> None:
    labels = answers_in(answers(release), "cifar_resnet20-float32")["session/image_bytes/labels"]
    unread = {i for i, best in enumerate(labels[:, 0]) if not best}
    assert unread == {NO_IMAGE} | (set() if RELEASES[release].decodes_webp else {WEBP})


@pytest.mark.parametrize(("name", "word"), [("new-in-2.20", "DecodeWebP"), ("new-in-2.21", "TensorListGetItem")])
def test_what_is_refused_a_server_cannot_load(
    name: str, word: str, servables: Path, answers: Callable[[str], Path]
) -> None:
    """And what is not refused it answers."""
    for release in (OURS, *OTHERS):
        error = answers(release) / f"{name}.error"
        if known := release_of(name.removeprefix("new-in-")) <= release:
            assert answers_in(answers(release), name)
        else:
            assert word in error.read_text()
        assert error.exists() == (not known)


def words_of_registry(folder: Path) -> set[str]:
    """What a TensorFlow knows, in the words of the table: its operations and its kernels for the CPU."""
    words: set[str] = set()
    operations = op_def_pb2.OpList.FromString((folder / "operations.pb").read_bytes())
    for operation in operations.op:
        words.add(operation.name)
        for attribute in operation.attr:
            name = f"{operation.name}.{attribute.name}"
            allowed = attribute.allowed_values.list
            values = [type_name(number) for number in allowed.type] + [text.decode() for text in allowed.s]
            words |= {name, *(f"{name}={value}" for value in values or ["anything"])}
    return words


def words_of_kernels(folder: Path) -> set[str]:
    words: set[str] = set()
    for kernel in kernel_def_pb2.KernelList.FromString((folder / "kernels.pb").read_bytes()).kernel:
        if kernel.device_type == "CPU":
            words.add(kernel.op)
            for constraint in kernel.constraint:
                name = f"{kernel.op}.{constraint.name}"
                words |= {name, *(f"{name}={type_name(number)}" for number in constraint.allowed_values.list.type)}
    return words


def shortest(words: set[str]) -> set[str]:
    """Without those that an operation, or an attribute, of them stands for."""
    return {word for word in words if not {word.partition(".")[0], word.partition("=")[0]} & (words - {word})}


def test_the_table_is_what_the_releases_register(answers: Callable[[str], Path]) -> None:
    folders = {release: answers(release) for release in (*OTHERS, OURS)}
    assert list(folders) == list(RELEASES)
    for release, folder in folders.items():
        own = json.loads((folder / "versions.json").read_text())["graph_def"]
        assert own == RELEASES[release].graph_def_version
    for earlier, later in zip(RELEASES, list(RELEASES)[1:], strict=False):
        found: set[str] = set()
        for words_in in (words_of_registry, words_of_kernels):
            found |= shortest(words_in(folders[later]) - words_in(folders[earlier]))
        assert sorted(found) == sorted(RELEASES[later].added)


def test_every_operation_of_the_servables_is_registered(servables: Path, answers: Callable[[str], Path]) -> None:
    """By name, in the releases themselves: the manifests', which `export` compared with the table alone."""
    for release in OTHERS:
        known = words_of_registry(answers(release))
        for case in CASES:
            assert set(manifest_of(servables / case / "1")["graph"]["operations"]) <= known
