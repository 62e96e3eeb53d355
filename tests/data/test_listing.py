"""Image files as they are listed: damaged ones, and what is said of them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from resnet_keras.config.train import TrainConfig
from resnet_keras.data.identity import identity_of
from resnet_keras.data.sources import open_source
from resnet_keras.errors import UsageError
from resnet_keras.inference.evaluate import evaluate
from resnet_keras.training.trainer import run


@pytest.fixture
def damaged(image_folder: Path) -> list[Path]:
    """Files of `image_folder` that are none, or half of one."""
    whole = (image_folder / "red" / "0.jpg").read_bytes()
    files = {"red/half.jpg": whole[: len(whole) // 2], "blue/words.jpg": b"no image", "blue/empty.png": b""}
    for name, content in files.items():
        (image_folder / name).write_bytes(content)
    return [image_folder / name for name in sorted(files)]


def test_damaged_files_are_refused_together_or_left_out(image_folder: Path, damaged: list[Path]) -> None:
    with pytest.raises(UsageError, match="3 images cannot be used, .*--skip-damaged: ") as error:
        open_source(str(image_folder))
    assert all(str(path) in str(error.value) for path in damaged)
    source = open_source(str(image_folder), skip_damaged=True)
    assert [fault.split(": ")[0] for fault in source.skipped] == [str(path) for path in damaged]
    with_them = identity_of(source)
    for path in damaged:
        path.unlink()
    whole = open_source(str(image_folder))
    assert getattr(source.train, "paths", None) == getattr(whole.train, "paths", 0)
    assert with_them == identity_of(whole)  # so that a run resumes, whether the files are mended or removed


def test_many_damaged_files_are_counted(image_folder: Path) -> None:
    for i in range(25):
        (image_folder / "red" / f"bad{i:02}.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="25 images cannot be used.*; and 15 more$"):
        open_source(str(image_folder))


def test_a_class_of_damaged_files_is_refused_all_the_same(image_folder: Path) -> None:
    (image_folder / "green").mkdir()
    (image_folder / "green" / "a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="class green has no image; a class needs two"):
        open_source(str(image_folder), skip_damaged=True)
    for label in ("blue", "red"):
        for part in ("train", "test"):
            (image_folder.parent / "splits" / part / label).mkdir(parents=True)
            for path in (image_folder / label).iterdir():
                bad = (part, label) == ("train", "red")
                content = b"x" if bad else path.read_bytes()
                (image_folder.parent / "splits" / part / label / path.name).write_bytes(content)
    with pytest.raises(UsageError, match="class red has no image to train on"):
        open_source(str(image_folder.parent / "splits"), skip_damaged=True)


def test_a_run_without_the_damaged_files_says_so(
    tiny: TrainConfig, image_folder: Path, damaged: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = dataclasses.replace(tiny, data=str(image_folder), image_size=16, batch_size=4, epochs=1)
    result = run(dataclasses.replace(config, skip_damaged=True, run_dir=str(tmp_path / "run")), quiet=False)
    said = capsys.readouterr().err
    assert all(said.count(str(path)) == 1 for path in damaged)
    assert "3 damaged left out" in result.metrics["environment"]["data"]
    assert evaluate(result.run_dir).examples == result.metrics["examples"]  # of the same images, by the run's config
