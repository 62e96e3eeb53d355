"""States of a run in a store: whole, whatever happens between two of its requests."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from resnet_keras.errors import UsageError
from resnet_keras.remote import working_copy as module
from resnet_keras.remote.stores import FsspecStore, RemoteError, open_store
from resnet_keras.remote.working_copy import OBJECTS, STATE, WorkingCopy, run_copy, working_copy

FIRST = {"config.json": "{}", "metrics.csv": "epoch\n1\n", "checkpoints/step-1.npz": "one", "notes.txt": "same"}
SECOND = {"config.json": "{}", "metrics.csv": "epoch\n1\n2\n", "checkpoints/step-2.npz": "two", "notes.txt": "same"}
WRITES = ("write", "upload", "remove")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store/run"


def fill(folder: Path, files: dict[str, str]) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def seen(url: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> dict[str, str]:
    """What another machine sees."""
    with monkeypatch.context() as patch:
        patch.setenv("RESNET_KERAS_CACHE", str(cache))
        return files_in(run_copy(url))


class Stop(BaseException):
    """The process is killed."""


def test_a_push_that_is_killed_at_any_request_leaves_the_state_before_or_after(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for requests in range(20):
        place = f"{url}-{requests}"
        copy = WorkingCopy(place)
        copy.claim()
        fill(copy.folder, FIRST)
        copy.push()
        fill(copy.folder, SECOND)
        left = requests

        def counted(method: Any) -> Any:
            def call(*words: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Stop
                return method(*words)

            return call

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(copy.store, name, counted(getattr(copy.store, name)))
            with contextlib.suppress(Stop):
                copy.push()
        found.append(seen(place, monkeypatch, tmp_path / f"reader-{len(found)}"))
        assert found[-1] in (FIRST, SECOND)
        # The next to write it goes on, and leaves no object of no state.
        again = WorkingCopy(place)
        again.claim()
        state = json.loads(again.store.read(STATE) or b"")
        assert {name.split("/")[2] for name in again.store.files(OBJECTS)} == set(state["files"].values())
        if left >= 0:
            break
    # Two files, the state, the table under its own name, two objects of before; and once without a kill.
    assert found == [FIRST] * 3 + [SECOND] * 4


def test_what_was_written_here_since_stays_and_what_another_wrote_takes_its_place(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_copy(url, print) as copy:
        fill(copy.folder, FIRST)
    fill(copy.folder, SECOND)  # and the store did not answer
    with working_copy(url, print) as copy:
        assert files_in(copy.folder) == SECOND
    assert seen(url, monkeypatch, tmp_path / "other") == SECOND
    with monkeypatch.context() as patch:
        patch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "other"))
        with working_copy(url, print) as other:
            fill(other.folder, FIRST)
    with working_copy(url, print) as copy:
        assert files_in(copy.folder) == FIRST


def test_a_run_that_was_removed_from_the_store_begins_anew(url: str) -> None:
    with working_copy(url, print) as copy:
        fill(copy.folder, FIRST)
    for name in copy.store.files():
        copy.store.remove(name)
    with working_copy(url, print) as copy:
        assert list(copy.folder.iterdir()) == []
        fill(copy.folder, SECOND)
    assert files_in(run_copy(url)) == SECOND


def test_the_process_that_wrote_before_stops_when_another_has_begun(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = WorkingCopy(url)
    copy.claim()
    fill(copy.folder, FIRST)
    copy.push()
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "other"))
    WorkingCopy(url).claim()
    fill(copy.folder, SECOND)
    with pytest.raises(UsageError, match=f"another process on .* writes to {url} now; this one's state is in"):
        copy.push()
    assert files_in(run_copy(url)) == FIRST


def test_two_processes_of_one_machine(url: str) -> None:
    with working_copy(url, print) as copy:
        fill(copy.folder, FIRST)
        with pytest.raises(UsageError, match=f"another process trains in {url}; wait for it"), working_copy(url, print):
            pass
        assert files_in(run_copy(url)) == FIRST  # which is not in the store yet


def test_a_store_that_refuses_for_a_while(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, times = FsspecStore.upload, 0

    def refuses(*words: Any) -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise RemoteError("Slow Down")
        upload(*words)

    monkeypatch.setattr(FsspecStore, "upload", refuses)
    with working_copy(url, print) as copy:
        fill(copy.folder, FIRST)
    assert files_in(run_copy(url)) == FIRST


def test_a_store_that_refuses_to_the_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*words: Any) -> None:
        raise RemoteError("cannot write to it: Access Denied")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(FsspecStore, "upload", refuses)
        with pytest.raises(UsageError, match=r"Access Denied; the run's state is kept in .*, and goes to"):
            write_first(url, said)
    assert "Access Denied" in said[0]
    with working_copy(url, print) as copy:
        assert files_in(copy.folder) == FIRST


def test_a_state_that_changes_while_it_is_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WorkingCopy(url)
    writer.claim()
    fill(writer.folder, FIRST)
    writer.push()
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "reader"))
    reader, times = WorkingCopy(url), 0
    download = reader.store.download

    def late(name: str, path: Path) -> None:
        nonlocal times
        times += 1
        if times == 2:
            fill(writer.folder, SECOND)
            writer.push()
        download(name, path)

    monkeypatch.setattr(reader.store, "download", late)
    reader.pull()
    assert files_in(reader.folder) == SECOND


def write_first(url: str, said: list[str]) -> None:
    with working_copy(url, said.append) as copy:
        fill(copy.folder, FIRST)
        module.push_or_warn(copy, said.append)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"no json", "is no state of a run"),
        (b'{"format_version": 9, "files": {}}', "was written by a later version"),
        (b'{"format_version": 1, "files": {"../../x": "0"}}', "names ../../x, which is outside"),
        (b'{"format_version": 1, "files": {"/etc/x": "0"}}', "names /etc/x, which is outside"),
    ],
)
def test_states_that_are_none(url: str, state: bytes, words: str) -> None:
    open_store(url).write(STATE, state)
    with pytest.raises(UsageError, match=words):
        run_copy(url)


def test_an_object_that_is_damaged(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with working_copy(url, print) as copy:
        fill(copy.folder, FIRST)
    name = next(name for name in copy.store.files(OBJECTS) if name.endswith("step-1.npz"))
    copy.store.write(name, b"onf")
    with pytest.raises(UsageError, match="step-1.npz is damaged: its SHA-256 differs"):
        seen(url, monkeypatch, tmp_path / "other")
