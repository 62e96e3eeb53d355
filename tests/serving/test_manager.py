"""Which versions are in memory: what a reload, a replaced folder and a slow model change, and what they leave alone."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from serving_models import half_plus
from tensorflow_serving.config import model_server_config_pb2

from resnet_keras.serving import garbage
from resnet_keras.serving import manager as manager_module
from resnet_keras.serving.loaded import LoadedVersion
from resnet_keras.serving.manager import Manager
from resnet_keras.serving.metrics import Metrics
from resnet_keras.serving.options import ServerOptions
from resnet_keras.serving.status import Code, ServingError
from resnet_keras.serving.versions import ModelSpec

X = {"x": np.array([2.0], "float32")}


def entry(name: str, folder: Path, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{folder}" {more} }}'


def config_of(*entries: str) -> model_server_config_pb2.ModelServerConfig:
    text = f"model_config_list {{ {' '.join(entries)} }}"
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collections after each load, which go through all that the tests have in memory."""
    for name in ("freeze", "collect_all"):
        monkeypatch.setattr(garbage, name, lambda: None)


@pytest.fixture
def managed() -> Iterator[Callable[..., Manager]]:
    made: list[Manager] = []

    def make(*entries: str, **options: Any) -> Manager:
        made.append(Manager(ServerOptions(**options), Metrics(), config_of(*entries)))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def answer(manager: Manager, name: str = "a", **spec: Any) -> float:
    with manager.version(ModelSpec(name, **spec)) as version:
        return float(version.run("serving_default", X, ["y"])["y"][0])


def waited_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_wrong_base_path_leaves_what_is_served(managed: Callable[..., Manager], tmp_path: Path) -> None:
    """The model was down, and the answer OK."""
    half_plus(2, tmp_path / "one" / "1")
    manager = managed(entry("a", tmp_path / "one"))
    with pytest.raises(ServingError, match="Could not find base path .*wrong for servable a") as caught:
        manager.configure(config_of(entry("a", tmp_path / "wrong")))
    assert caught.value.code == Code.NOT_FOUND
    assert answer(manager) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServingError, match="No versions of servable a found under base path"):
        manager.configure(config_of(entry("a", tmp_path / "empty"), entry("b", tmp_path / "one")))
    assert (answer(manager), answer(manager, "b")) == (3, 3)
    half_plus(5, tmp_path / "empty" / "1")  # what is asked for is there at last
    manager.look()
    assert answer(manager) == 6


def test_what_a_version_leaves_is_collected_and_what_it_has_is_not_searched(
    managed: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its graph refers to itself. A program that goes on has its collector back."""
    monkeypatch.undo()
    half_plus(2, tmp_path / "one" / "1")
    manager = managed(entry("a", tmp_path / "one"))
    with manager.version(ModelSpec("a")) as version:
        graph = weakref.ref(version._session.graph)
    del version
    assert gc.get_freeze_count() > 100_000
    half_plus(5, tmp_path / "one" / "2")
    manager.look()
    waited_for(lambda: graph() is None)
    assert answer(manager) == 6
    manager.close()
    assert gc.get_freeze_count() == 0
    gc.freeze()  # for the tests to come


def test_a_new_base_path_takes_over_without_a_gap(managed: Callable[..., Manager], tmp_path: Path) -> None:
    """Of the same version number, while requests come."""
    half_plus(2, tmp_path / "one" / "1")
    half_plus(5, tmp_path / "two" / "1")
    manager = managed(entry("a", tmp_path / "one"))
    ended, answers = threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            answers.append(answer(manager))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        manager.configure(config_of(entry("a", tmp_path / ("two", "one")[turn % 2])))
        expected = (6, 3)[turn % 2]
        assert answer(manager) == expected
    ended.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {3, 6}


def test_a_label_waits_for_its_version(managed: Callable[..., Manager], tmp_path: Path) -> None:
    half_plus(2, tmp_path / "one" / "1")
    every = "model_version_policy { all {} }"
    manager = managed(entry("a", tmp_path / "one", every + " version_labels { key: 'stable' value: 1 }"))
    with pytest.raises(ServingError, match="assign label to version 2 of model a, which is not currently available"):
        manager.configure(config_of(entry("a", tmp_path / "one", every + " version_labels { key: 'stable' value: 2 }")))
    assert answer(manager, label="stable") == 3
    half_plus(5, tmp_path / "one" / "2")
    manager.look()
    assert answer(manager, label="stable") == 6


def test_a_version_is_tried_again_when_its_folder_is_replaced(managed: Callable[..., Manager], tmp_path: Path) -> None:
    """Its retries were used up for good, whatever was put there."""
    half_plus(2, tmp_path / "one" / "1")
    (tmp_path / "one" / "2").mkdir()
    (tmp_path / "one" / "2" / "saved_model.pb").write_bytes(b"damaged")
    manager = managed(entry("a", tmp_path / "one"), max_num_load_retries=0)
    assert "version 2: " in manager.failures()[0]
    manager.look()
    half_plus(5, tmp_path / "new")
    shutil.rmtree(tmp_path / "one" / "2")
    (tmp_path / "new").rename(tmp_path / "one" / "2")
    manager.look()
    assert answer(manager) == 6


def test_a_model_does_not_wait_for_another(
    managed: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for one that loads, nor for one whose old version answers a request that does not end."""
    for name in ("a", "b", "c"):
        half_plus(2, tmp_path / name / "1")
    slow, going_on = threading.Event(), threading.Event()

    class Slow(LoadedVersion):
        def __init__(self, name: str, version: int, *rest: Any) -> None:
            if (name, version) == ("b", 2):
                slow.set()
                going_on.wait(60)
            super().__init__(name, version, *rest)

    monkeypatch.setattr(manager_module, "LoadedVersion", Slow)
    entries = [entry(name, tmp_path / name) for name in ("a", "b", "c")]
    manager = managed(*entries, file_system_poll_wait_seconds=1)
    manager.start()
    with manager.version(ModelSpec("c")):
        for name in ("b", "c", "a"):
            half_plus(5, tmp_path / name / "2")
        assert slow.wait(30)
        waited_for(lambda: answer(manager, "a") == answer(manager, "c") == 6)
        assert answer(manager, "b") == 3
        assert manager.states(ModelSpec("c"))[1].state == "UNLOADING"
        half_plus(7, tmp_path / "c" / "3")  # and goes on changing meanwhile
        waited_for(lambda: answer(manager, "c") == 8)
    going_on.set()
    waited_for(lambda: answer(manager, "b") == 6)
    waited_for(lambda: manager.states(ModelSpec("c"))[1].state == "END")


def test_a_model_that_is_removed_while_it_loads_is_gone(
    managed: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_plus(2, tmp_path / "a" / "1")
    half_plus(2, tmp_path / "b" / "1")
    manager = managed(entry("a", tmp_path / "a"), entry("b", tmp_path / "b"))
    closed: list[str] = []
    monkeypatch.setattr(LoadedVersion, "close", lambda self, *_: closed.append(self.name))
    manager.configure(config_of(entry("b", tmp_path / "b")))
    waited_for(lambda: closed == ["a"])
    with pytest.raises(ServingError, match="Servable not found"):
        answer(manager)


def test_states_and_series_do_not_grow_with_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "MOST_ENDED", 2)
    folder = tmp_path / "a"
    half_plus(2, tmp_path / "model")
    shutil.copytree(tmp_path / "model", folder / "1")
    metrics = Metrics()
    manager = Manager(ServerOptions(), metrics, config_of(entry("a", folder)))
    try:
        first = len(metrics.page())
        for version in range(2, 8):
            shutil.copytree(tmp_path / "model", folder / str(version))
            manager.look()
            shutil.rmtree(folder / str(version - 1))
        waited_for(lambda: len(manager.states(ModelSpec("a"))) == 3)
        waited_for(lambda: len(metrics.page()) < 2 * first)
    finally:
        manager.close()


@pytest.mark.parametrize("verify", [True, pytest.param(False, marks=pytest.mark.slow)])  # 2 s: a flag that turns it off
def test_a_damaged_version_is_not_served(
    managed: Callable[..., Manager], servable: Path, tmp_path: Path, verify: bool
) -> None:
    """Of a flipped bit in the labels TensorFlow sees nothing."""
    for version in ("1", "2"):
        shutil.copytree(servable, tmp_path / "digits" / version)
    labels = tmp_path / "digits" / "2" / "assets" / "labels.txt"
    labels.write_text(labels.read_text().replace("7", "5"))
    manager = managed(entry("digits", tmp_path / "digits", "model_version_policy { all {} }"), verify_files=verify)
    with manager.version(ModelSpec("digits", 2 if not verify else None)) as version:
        assert version.version == 2 - verify
    if verify:
        error = manager.states(ModelSpec("digits", 2))[2].error
        assert error is not None
        assert (error.code, "labels.txt is not as it was exported" in error.message) == (Code.DATA_LOSS, True)
