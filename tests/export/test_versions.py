"""Version folders and `models.config`: exports that follow one another, run side by side or are killed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.servable import manifest_of
from resnet_keras.export.versions import publish, rollback


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A small network: what is exported is not the point here."""
    return rk.build_cifar_resnet(8, input_shape=(8, 8, 3), include_preprocessing=True)


def config_in(folder: Path) -> dict[str, dict[str, Any]]:
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), config)
    return {
        entry.name: {
            "base_path": entry.base_path,
            "versions": list(entry.model_version_policy.specific.versions),
            **entry.version_labels,
        }
        for entry in config.model_config_list.config
    }


def test_models_config_follows_exports_and_rollbacks(model: keras.Model, tmp_path: Path) -> None:
    other = 'model_config_list { config { name: "other" base_path: "/elsewhere" model_platform: "tensorflow" } }'
    (tmp_path / "models.config").write_text(other)
    base = tmp_path / "digits"
    first = rk.export_servable(model, base)

    def copy(folder: Path) -> None:
        shutil.copytree(first, folder, dirs_exist_ok=True)

    seen = [config_in(tmp_path)]
    for number in (2, 3):
        assert publish(base, None, copy) == base / str(number)
        seen.append(config_in(tmp_path))
    at = {"base_path": "/models/digits"}
    assert [entry["digits"] for entry in seen] == [
        {**at, "versions": [1], "stable": 1, "canary": 1},
        {**at, "versions": [1, 2], "stable": 1, "canary": 2},
        {**at, "versions": [2, 3], "stable": 2, "canary": 3},
    ]
    assert all(entry["other"] == {"base_path": "/elsewhere", "versions": []} for entry in seen)
    assert rollback(tmp_path, "digits") == (3, 2)
    assert config_in(tmp_path)["digits"] == {**at, "versions": [2], "stable": 2, "canary": 2}
    assert (tmp_path / "digits" / "3").is_dir()
    assert rollback(tmp_path, "digits") == (2, 1)
    with pytest.raises(UsageError, match="no version before 1"):
        rollback(tmp_path, "digits")
    with pytest.raises(UsageError, match="names no model digit; it names other, digits"):
        rollback(tmp_path, "digit")
    with pytest.raises(UsageError, match="there is no folder"):
        rollback(tmp_path / "nowhere", "digits")
    publish(base, None, copy)
    assert config_in(tmp_path)["digits"] == {**at, "versions": [1, 4], "stable": 1, "canary": 4}
    assert rollback(tmp_path, "digits") == (4, 1)  # and not to 3, which was withdrawn


def test_a_damaged_models_config_is_named(model: keras.Model, tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("nothing of the kind {")
    with pytest.raises(UsageError, match="models.config is not a configuration of models"):
        rk.export_servable(model, tmp_path / "digits")
    assert (tmp_path / "models.config").read_text() == "nothing of the kind {"
    assert not (tmp_path / "digits").exists()


class Publishing:
    """A process that publishes a version of a model, one line of its output for each step; a line lets it go on.

    It imports no TensorFlow, so that it starts in a moment; `test_twenty_killed_exports...` has whole exports.
    """

    CODE = """
import sys
from pathlib import Path
sys.argv[0] = "resnet-keras"
from resnet_keras.export.versions import publish

def step(name):
    print(name, flush=True)
    sys.stdin.readline()

def write(folder):
    step("begun")
    (folder / "saved_model.pb").write_bytes(b"a graph")
    step("written")

publish(Path(sys.argv[1]), None, write)
assert "tensorflow" not in sys.modules
step("done")
"""

    def __init__(self, base: Path) -> None:
        command = [sys.executable, "-c", self.CODE, str(base)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_for(self, step: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == f"{step}\n"

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("step", ["begun", "written"])
def test_a_killed_export_is_never_seen(step: str, model: keras.Model, tmp_path: Path) -> None:
    base = tmp_path / "digits"
    publishing = Publishing(base)
    publishing.wait_for("begun")
    if step == "written":
        publishing.go_on()
        publishing.wait_for("written")
    publishing.kill()
    (left,) = base.iterdir()
    assert left.name.startswith(".export-")  # which is no version
    assert not (tmp_path / "models.config").exists()
    path = rk.export_servable(model, base)
    assert [child.name for child in base.iterdir()] == [path.name] == ["1"]
    assert config_in(tmp_path)["digits"]["canary"] == 1


def test_an_export_beside_another_does_not_take_its_folder(tmp_path: Path) -> None:
    """Both are at work at once, beside what a killed one left."""
    base = tmp_path / "digits"
    (base / ".export-abandoned").mkdir(parents=True)
    both = [Publishing(base), Publishing(base)]
    for step in ("begun", "written", "done"):
        for publishing in both:
            publishing.wait_for(step)
        for publishing in both:
            publishing.go_on()
    for publishing in both:
        publishing.process.communicate()
        assert publishing.process.returncode == 0
    assert sorted(child.name for child in base.iterdir()) == ["1", "2"]
    assert all((base / name / "saved_model.pb").read_bytes() == b"a graph" for name in "12")
    assert config_in(tmp_path)["digits"] == {
        "base_path": "/models/digits",
        "versions": [1, 2],
        "stable": 1,
        "canary": 2,
    }


EXPORT = "import sys, resnet_keras as rk; rk.export_servable(sys.argv[1], sys.argv[2]); print('done')"


def kill_exports(run: Path, base: Path, delays: list[float]) -> tuple[int, int]:
    """Start exports and kill each so many seconds after it began to write; how many it caught, and were through."""
    caught = 0
    for delay in delays:
        before = set(base.glob(".export-*"))
        process = subprocess.Popen([sys.executable, "-c", EXPORT, str(run), str(base)], stdout=subprocess.PIPE)
        while process.poll() is None and not set(base.glob(".export-*")) - before:
            time.sleep(0.001)
        time.sleep(delay)
        caught += process.poll() is None
        process.kill()
        process.communicate()
        for version in base.iterdir():
            if version.name.isdecimal():
                assert manifest_of(version)["name"] == base.name
                assert run_servable(version, {"features": {"image": np.zeros((1, 8, 8, 1), "uint8")}})
    return caught, sum(child.name.isdecimal() for child in base.iterdir())


@pytest.mark.slow  # 150 s: each export is a process that imports TensorFlow
def test_twenty_killed_exports_leave_whole_versions_only(digits_run: Path, tmp_path: Path) -> None:
    base = tmp_path / "digits"
    base.mkdir()
    caught, through = kill_exports(digits_run, base, [0.05 * i for i in range(20)])
    assert caught >= 5
    assert through >= 1
    path = rk.export_servable(digits_run, base)
    assert int(path.name) == through + 1
    assert all(child.name.isdecimal() for child in base.iterdir())
