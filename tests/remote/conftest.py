"""Servers for the tests of this folder, and caches of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gs_server import gs_server
from s3_server import s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The environment in which s3:// is a server of this machine with a bucket called `bucket`."""
    with s3_server() as environment:
        yield environment


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are kept, empty."""
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def in_s3(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """s3:// is that server in this process too."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which TensorFlow's gs:// is a server of this machine with a bucket called `bucket`."""
    with gs_server(tmp_path_factory.mktemp("gs")) as environment:
        yield environment


@pytest.fixture
def in_gs(gs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """gs:// is that server in this process too."""
    for name, value in gs.items():
        monkeypatch.setenv(name, value)
    return gs
