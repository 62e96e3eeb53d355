"""Servables as TensorFlow Serving loads them: its C++ session, in a process without Python TensorFlow.

TensorFlow Serving itself runs in `test_tensorflow_serving_in_docker`, where there is a Docker.
"""

import base64
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2
from test_export_families import FAMILIES, cosine, features_of, network_of

import resnet_keras as rk
from resnet_keras.export import quantized
from resnet_keras.export.comparison import run_servable
from resnet_keras.serving.options import IMAGE

CLIENT = Path(__file__).parents[1] / "c_api.py"
INVALID_ARGUMENT = 3
DTYPES = ["float32", "bfloat16", "int8"]
RNG = np.random.default_rng(0)


class Process:
    """A process that holds one servable."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-P", str(CLIENT), str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        self.signatures = saved.meta_graphs[0].signature_def
        assert json.loads(self._line()) == {"ready": True}

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            _, error = self.process.communicate()
            raise AssertionError(f"the process ended with {self.process.returncode}: {error[-2000:]}")
        return line

    def ask(self, signature: str, value: np.ndarray) -> tuple[int, str, dict[str, np.ndarray]]:
        """Code, message and outputs for one input."""
        chosen = self.signatures[signature]
        (info,) = chosen.inputs.values()
        names = list(chosen.outputs)
        feeds = {info.name: encoded(value)}
        assert self.process.stdin
        print(
            json.dumps({"feeds": feeds, "fetches": [chosen.outputs[name].name for name in names]}),
            file=self.process.stdin,
            flush=True,
        )
        reply = json.loads(self._line())
        values = [decoded(value) for value in reply["values"]]
        return reply["code"], reply["message"], dict(zip(names, values, strict=False))

    def close(self) -> None:
        _, error = self.process.communicate()
        assert self.process.returncode == 0, error[-2000:]


def encoded(value: np.ndarray) -> dict[str, Any]:
    if value.dtype == object:
        data: Any = [base64.b64encode(text).decode() for text in value.ravel()]
        return {"dtype": 7, "shape": list(value.shape), "data": data}
    number = tf.as_dtype(value.dtype).as_datatype_enum
    return {"dtype": number, "shape": list(value.shape), "data": base64.b64encode(value.tobytes()).decode()}


def decoded(value: dict[str, Any]) -> np.ndarray:
    if value["dtype"] == 7:
        return np.array([base64.b64decode(text) for text in value["data"]], object).reshape(value["shape"])
    kind = tf.as_dtype(value["dtype"]).as_numpy_dtype
    return np.frombuffer(base64.b64decode(value["data"]), kind).reshape(value["shape"])


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def version(
    request: pytest.FixtureRequest, digits_run: Path, data_dir: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    more: dict[str, Any] = {}
    if request.param == "int8":
        if not quantized.available():
            pytest.skip("this TensorFlow has no quantised convolution (oneDNN on x86 has)")
        more = {"calibration_data": "digits", "data_dir": data_dir}
    base = tmp_path_factory.mktemp("served") / "digits"
    return rk.export_servable(digits_run, base, dtype=request.param, **more)


@pytest.fixture(scope="module")
def process(version: Path) -> Iterator[Process]:
    running = Process(version)
    yield running
    running.close()


def test_every_signature_answers(process: Process, version: Path, digit_png: Path) -> None:
    images = RNG.integers(0, 256, (3, 8, 8, 1), "uint8")
    strings = np.array([digit_png.read_bytes()] * 2, object)
    asked = [("serving_default", images), ("features", images), ("image_bytes", strings), ("explain", strings)]
    for signature, value in asked:
        code, message, outputs = process.ask(signature, value)
        assert code == 0, message
        (key,) = process.signatures[signature].inputs
        expected = run_servable(version, {signature: {key: value}})[signature]
        assert set(outputs) == set(expected)
        for name, tensor in outputs.items():
            assert tensor.shape == expected[name].shape
            if tensor.dtype == object:
                assert (tensor == expected[name]).all()
            else:
                np.testing.assert_allclose(tensor, expected[name], rtol=1e-4, atol=1e-6)


TYPES = ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool", "complex64", "object"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    signature=st.sampled_from(["serving_default", "features", "image_bytes", "explain"]),
    dtype=st.one_of(st.just("uint8"), st.sampled_from(TYPES)),
    shape=st.one_of(
        st.lists(st.sampled_from([0, 1, 2, 3, 8, 9]), max_size=6),
        st.tuples(
            st.integers(0, 3), st.sampled_from([8, 8, 9]), st.sampled_from([8, 8, 0]), st.sampled_from([1, 1, 3])
        ),
    ).map(list),
    seed=st.integers(0, 99),
)
def test_no_tensor_ends_the_process(process: Process, signature: str, dtype: str, shape: list[int], seed: int) -> None:
    """Any rank, size and type: an answer where it fits, else InvalidArgument."""
    rng = np.random.default_rng(seed)
    if np.prod(shape) > 20_000:
        shape = shape[:3]
    if dtype == "object":
        value = np.empty(shape, object)
        for place in np.ndindex(*shape):
            value[place] = rng.bytes(int(rng.integers(0, 30)))
    else:
        value = np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
    code, message, _ = process.ask(signature, value)
    pixels = signature in ("serving_default", "features")
    fits = pixels and dtype == "uint8" and len(shape) == 4 and shape[1:] == [8, 8, 1] and shape[0]
    assert code == (0 if fits else INVALID_ARGUMENT), message


def images() -> list[bytes]:
    """The same image in each format that TensorFlow writes, and Pillow's others."""
    import io

    from PIL import Image

    pixels = Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype("uint8"))
    made = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels.save(file, kind, **({"exif": exif.tobytes()} if kind == "JPEG" else {}))
        made.append(file.getvalue())
    return made


IMAGES = images()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, len(IMAGES) - 1),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    end=st.integers(0, 4000),
)
def test_no_damaged_image_ends_the_process(
    process: Process, which: int, changes: list[tuple[int, int]], end: int
) -> None:
    """Bytes changed and files cut short, each beside a sound image, whose answer stays what it is."""
    damaged = bytearray(IMAGES[which])
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    code, message, outputs = process.ask("image_bytes", np.array([bytes(damaged[:end]), IMAGES[1]], object))
    assert code == 0, message
    alone = process.ask("image_bytes", np.array([IMAGES[1]], object))[2]
    np.testing.assert_allclose(outputs["probabilities"][1], alone["probabilities"][0], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker here: TensorFlow Serving was not run")
def test_tensorflow_serving_in_docker(version: Path, digit_png: Path) -> None:
    """The same answers from TensorFlow Serving itself, over REST."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("docker answers nothing here: TensorFlow Serving was not run")
    models = version.parent.parent
    command = ["docker", "run", "--rm", "-d", "-p", "0:8501", "-v", f"{models}:/models:ro", IMAGE]
    options = [
        "--model_config_file=/models/models.config",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_model_warmup=true",
    ]
    started = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"docker has no tensorflow/serving: {started.stderr[-200:]}")
    container = started.stdout.strip()
    try:
        port = subprocess.run(["docker", "port", container, "8501"], capture_output=True, text=True, check=True)
        address = f"http://localhost:{port.stdout.split(':')[-1].strip()}/v1/models/digits"
        for _ in range(120):
            try:
                urllib.request.urlopen(address).read()
                break
            except (urllib.error.URLError, ConnectionError):
                subprocess.run(["sleep", "0.5"], check=True)
        image = {"b64": base64.b64encode(digit_png.read_bytes()).decode()}
        body = json.dumps({"signature_name": "image_bytes", "instances": [{"image_bytes": image}]}).encode()
        request = urllib.request.Request(f"{address}:predict", body)
        answer = json.load(urllib.request.urlopen(request))["predictions"][0]
        expected = run_servable(version, {"image_bytes": {"image_bytes": [digit_png.read_bytes()]}})["image_bytes"]
        np.testing.assert_allclose(answer["scores"], expected["scores"][0], atol=1e-4)
        assert answer["labels"] == [label.decode() for label in expected["labels"][0]]
    finally:
        subprocess.run(["docker", "kill", container], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_dtype_of_each_family_in_a_process_of_its_own(family: str, tmp_path: Path) -> None:
    """Exported, loaded without this package or Python TensorFlow, and compared with the network.

    float32 to 1e-5 of the largest feature; bfloat16 and int8, whose calibration images are what is asked, by cosine;
    bfloat16 also by the class of each image, where float32's best two are not as good as equal.
    """
    model, _ = network_of(family)
    images = RNG.integers(0, 256, (256, *model.input_shape[1:]), "uint8")
    some = images[:16]
    expected = features_of(model, some)
    probabilities = np.asarray(model(some.astype("float32"), training=False))
    for dtype in DTYPES if quantized.available() else DTYPES[:2]:
        more: dict[str, Any] = {"calibration_data": images, "max_accuracy_loss": 100.0} if dtype == "int8" else {}
        process = Process(rk.export_servable(model, tmp_path / dtype, dtype=dtype, **more))
        code, message, outputs = process.ask("features", some)
        assert code == 0, message
        got = outputs["features"].astype("float64")
        if dtype == "float32":
            assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
        else:
            assert cosine(got, expected) > (0.999 if dtype == "bfloat16" else 0.99)
        if dtype == "bfloat16":
            answer = process.ask("serving_default", some)[2]["probabilities"]
            best = np.sort(probabilities, -1)
            clear = best[:, -1] > 1.2 * best[:, -2]
            assert (answer.argmax(-1) == probabilities.argmax(-1))[clear].all()
        process.close()
