"""What every store promises, of each: fsspec's memory and folders, a server of S3, and one of gs:// by TensorFlow."""

import contextlib
from pathlib import Path

import pytest

from resnet_keras.errors import UsageError
from resnet_keras.remote.copies import folder_copy, local
from resnet_keras.remote.stores import RemoteError, Store, open_store
from resnet_keras.remote.versions import MANIFEST, complete_versions, fetch_version, new_version


@pytest.fixture(params=["memory", "file", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param in ("s3", "gs"):
        request.getfixturevalue(f"in_{request.param}")
        return open_store(f"{request.param}://bucket/{tmp_path.name}")
    return open_store(f"{request.param}://{tmp_path}/there")


def test_objects(store: Store, tmp_path: Path) -> None:
    assert store.files() == {}
    assert store.read("a/b") is None
    store.write("a/b", b"one")
    (tmp_path / "file").write_bytes(b"two")
    store.upload(tmp_path / "file", "a/c/d")
    before = store.files()
    assert set(before) == {"a/b", "a/c/d"}
    assert set(store.files("a/c")) == {"a/c/d"}
    assert store.files("nothing") == {}
    assert (store.read("a/b"), store.read("a/c/d")) == (b"one", b"two")
    store.write("a/b", b"three")
    assert store.files()["a/b"] != before["a/b"]
    assert store.files()["a/c/d"] == before["a/c/d"]
    store.download("a/b", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"three"
    assert store.create("new", b"1")
    assert not store.create("new", b"2")
    assert store.read("new") == b"1"
    store.remove("new")
    assert store.read("new") is None
    with pytest.raises(RemoteError, match=f"cannot read {store.url}/new: "):
        store.download("new", tmp_path / "file")


def test_a_copy_reads_only_what_has_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        store.write(name, name.encode())
    folder = folder_copy(store.url)
    assert (folder / "a/2.png").read_bytes() == b"a/2.png"
    store.write("a/2.png", b"another")
    store.remove("b/3.png")
    read = []
    download = type(store).download
    monkeypatch.setattr(type(store), "download", lambda *words: (read.append(words[1]), download(*words)))
    assert folder_copy(store.url) == folder
    assert read == ["a/2.png"]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    assert found == {"a/1.png": b"a/1.png", "a/2.png": b"another"}
    (folder / "a/1.png").unlink()
    assert Path(local(f"{store.url}/a/1.png", beside=True)).read_bytes() == b"a/1.png"
    with pytest.raises(UsageError, match=f"there is nothing in {store.url}/c"):
        folder_copy(store.url, "c")


def test_versions(store: Store) -> None:
    for number in (1, 2):
        with new_version(store.url, None) as (base, found):
            assert found == number
            make_version(base / str(number))
            # Another export meanwhile takes another number.
            if number == 2:
                with contextlib.suppress(RuntimeError), new_version(store.url, None) as (_, other):
                    assert other == 3
                    raise RuntimeError
        assert complete_versions(store) == list(range(1, number + 1))
    assert {name.split("/")[0] for name in store.files()} == {"1", "2"}
    folder = fetch_version(store.url, 2)
    assert (folder / "variables/x").read_text() == "x"
    with pytest.raises(UsageError, match=f"version 2 exists in {store.url}; leave --version out for 3"):
        new_version(store.url, 2).__enter__()


def test_a_version_that_fails_on_its_way_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, names = type(store).upload, []

    def fails(own: Store, path: Path, name: str) -> None:
        names.append(name)
        if name.endswith(MANIFEST):
            raise RemoteError("Access Denied")
        upload(own, path, name)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(type(store), "upload", fails)
    with pytest.raises(RemoteError), new_version(store.url, None) as (base, number):
        make_version(base / str(number))
    assert names == ["1/variables/x", "1/saved_model.pb", f"1/{MANIFEST}"]
    assert store.files() == {}


def make_version(folder: Path) -> None:
    for name in (MANIFEST, "saved_model.pb", "variables/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name[-1])
