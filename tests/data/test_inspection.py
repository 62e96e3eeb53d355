"""What is found in data before training: duplicates, leakage, sizes, kinds, and what is advised."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small import SHARED_DATA

from resnet_keras.config.train import TrainConfig
from resnet_keras.data.advice import advice_on
from resnet_keras.data.duplicates import Group, duplicate_groups
from resnet_keras.data.facts import ImageFacts, facts_of
from resnet_keras.data.inspection import Inspection, inspect
from resnet_keras.training.setup import source_of

HANDS = SHARED_DATA / "sign_language_digits"


def scene(seed: int, height: int = 80, width: int = 90) -> np.ndarray:
    """A smooth image of strong colours, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype("uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(pixels: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with splits: 6 scenes to train on and 2 to test with in each class, and copies of all kinds."""
    folder = tmp_path / "mixed"
    for c, label in enumerate("ab"):
        for i in range(8):
            save(scene(10 * c + i), folder / ("train" if i < 6 else "test") / label / f"{i}.png")
    (folder / "test/a/copy.png").write_bytes((folder / "train/a/0.png").read_bytes())
    save(scene(1), folder / "test/a/lossless.webp", lossless=True)
    save(np.asarray(Image.fromarray(scene(2)).resize((45, 40))), folder / "test/a/small.jpg", quality=90)
    save(scene(3), folder / "train/b/other.bmp")
    return folder


def words_of(found: Inspection, level: str, image_size: int = 32) -> str:
    return "\n".join(text for own, text in advice_on(found, image_size) if own == level)


def test_copies_are_found_however_they_are_stored(mixed: Path) -> None:
    found = inspect(str(mixed))
    names = [
        (group.kind, [str(Path(found.names[i]).relative_to(mixed)) for i in group.members]) for group in found.groups
    ]
    assert sorted(names) == [
        ("file", ["train/a/0.png", "test/a/copy.png"]),
        ("near", ["train/a/2.png", "test/a/small.jpg"]),
        ("pixels", ["train/a/1.png", "test/a/lossless.webp"]),
        ("pixels", ["train/a/3.png", "train/b/other.bmp"]),
    ]
    assert found.leaked["test"] == {"file": 1, "pixels": 1, "near": 1}
    assert [found.crosses(group) for group in found.groups].count(True) >= 3
    told = words_of(found, "warning")
    assert (
        "3 of 7 test images are among the training or validation images too (1 the same file, 1 the same pixels" in told
    )
    assert "1 image has copies of another class" in told
    assert "other.bmp (b)" in told


def test_the_splits_are_those_of_a_run(mixed: Path, image_folder: Path, tiny: TrainConfig) -> None:
    for folder in (mixed, image_folder):
        found = inspect(str(folder))
        source: Any = source_of(dataclasses.replace(tiny, data=str(folder)))
        for split, part in (("train", source.train), ("validation", source.validation), ("test", source.test)):
            assert part.paths == tuple(np.array(found.names)[found.splits == split])
            np.testing.assert_array_equal(part.targets, found.targets[found.splits == split])


def test_a_group_is_as_near_as_its_farthest_copy() -> None:
    thumbs = np.stack([scene(i, 16, 16) for i in (0, 0, 0, 1)])
    thumbs[2, 0, 0] += 1
    assert duplicate_groups("aabc", "ppqr", thumbs) == [Group("near", (0, 1, 2))]
    assert duplicate_groups("abcd", "pprs", np.stack([scene(i, 16, 16) for i in (0, 0, 2, 3)])) == [
        Group("pixels", (0, 1))
    ]
    plain = np.full((2, 16, 16, 3), 200, "uint8")
    plain[1] += 1  # two walls are not one
    assert duplicate_groups("ab", "pq", plain) == []
    assert duplicate_groups("", "", plain[:0]) == []


def test_no_image_is_missed_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_keras.data import duplicates

    thumbs = np.stack([scene(i % 9, 16, 16) for i in range(18)])
    whole = duplicates.near_pairs(thumbs).tolist()
    assert sorted(whole) == [[i, i + 9] for i in range(9)]
    monkeypatch.setattr(duplicates, "BLOCK", 4)
    assert sorted(duplicates.near_pairs(thumbs).tolist()) == sorted(whole)


@pytest.mark.skipif(not HANDS.is_dir(), reason="the shared images are not here")
def test_near_duplicates_of_real_photographs() -> None:
    """A series of photographs of hands has none; its copies in poor JPEG and in half the size are all found."""
    files = sorted(HANDS.glob("[0-4]/*"))[::8]
    photographs = [np.asarray(Image.open(file).convert("RGB").resize((100, 100))) for file in files]
    contents: list[Any] = [*photographs]
    for pixels in photographs:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
        contents += [buffer.getvalue(), np.asarray(Image.fromarray(pixels).resize((50, 50), Image.Resampling.BICUBIC))]
    facts: list[Any] = list(facts_of(contents))
    groups = duplicate_groups(
        [fact.file_hash for fact in facts],
        [fact.pixel_hash for fact in facts],
        np.stack([fact.thumb for fact in facts]),
    )
    count = len(photographs)
    expected = [Group("near", (i, count + 2 * i, count + 2 * i + 1)) for i in range(count)]
    assert groups == expected


def test_kinds_of_images(tmp_path: Path) -> None:
    rgb, rgba = scene(0), np.dstack([scene(0), np.full((80, 90), 100, "uint8")])
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a.jpg": (rgb, {}),
        "turned.jpg": (rgb, {"exif": exif}),
        "alpha.png": (rgba, {}),
        "grey.png": (rgb[..., 0], {}),
        "plain.webp": (rgb, {"lossless": True}),
        "a.bmp": (rgb, {}),
        "a.gif": (rgb, {}),
    }
    paths = [str(save(pixels, tmp_path / name, **options)) for name, (pixels, options) in files.items()]
    Image.fromarray(rgb).quantize(8).save(tmp_path / "palette.png", transparency=0)
    facts = dict(zip([*files, "palette.png"], facts_of([*paths, str(tmp_path / "palette.png")]), strict=True))
    assert all(isinstance(fact, ImageFacts) for fact in facts.values())
    known: dict[str, Any] = facts
    kinds = ["JPEG", "JPEG", "PNG", "PNG", "WebP", "BMP", "GIF", "PNG"]
    assert [fact.kind for fact in known.values()] == kinds
    assert [name for name, fact in known.items() if fact.alpha] == ["alpha.png", "palette.png"]
    assert [name for name, fact in known.items() if fact.grey] == ["grey.png"]
    assert [name for name, fact in known.items() if fact.rotated] == ["turned.jpg"]
    assert known["turned.jpg"].size == (90, 80)  # upright
    assert known["a.bmp"].pixel_hash == known["plain.webp"].pixel_hash


def test_what_is_wrong_is_listed_whole(image_folder: Path) -> None:
    (image_folder / "red" / "bad.jpg").write_bytes(b"no image")
    (image_folder / "red" / "half.jpg").write_bytes((image_folder / "red" / "0.jpg").read_bytes()[:300])
    (image_folder / "green").mkdir()
    for i in range(2, 6):
        (image_folder / "blue" / f"{i}.jpg").unlink()
    found = inspect(str(image_folder))
    assert found.refusal
    assert all(word in found.refusal for word in ("bad.jpg", "half.jpg", "green is empty"))
    row = found.to_dict(64)
    assert not row["usable"]
    assert [Path(one["file"]).name for one in row["damaged"]] == ["bad.jpg", "half.jpg"]
    assert sum(row["splits"].values()) == row["images"] == 8
    assert row["imbalance"] == 4.0
    assert row["small"] == {"image_size": 64, "images": 8}
    assert row["sizes"]["largest"] == [25, 24]
    by_label = {one["label"]: one for one in row["classes"]}
    assert by_label["green"]["balanced_weight"] == 0
    # By definition: the weights of all training images have the mean 1.
    assert sum(one["train"] * one["balanced_weight"] for one in row["classes"]) == pytest.approx(row["splits"]["train"])
    assert "2 damaged files" in words_of(found, "refused")
    assert "red has 4 training images, 4.0 times as many as blue" in words_of(found, "warning")


def test_data_that_are_sound_have_nothing_to_be_warned_of(tmp_path: Path) -> None:
    for c, label in enumerate("ab"):
        for i in range(40):
            save(scene(100 * c + i, 32, 32), tmp_path / "good" / label / f"{i}.png")
    found = inspect(str(tmp_path / "good"))
    assert found.refusal is None
    assert advice_on(found, 32) == []
    assert found.split_by == "name"
    assert found.sizes_in_words() == [("32 to 63", 80)]


def test_digits_and_records(data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_keras.data import tfds_source

    found = inspect("digits", data_dir)
    assert (len(found.facts), found.common_size, found.split_by) == (1797, 8, "given")
    assert found.counts.sum(0).tolist() == [1437, 0, 360]
    assert found.groups == []
    monkeypatch.setattr(tfds_source, "FITS_IN_MEMORY", 0)
    streamed = inspect("digits", data_dir)
    np.testing.assert_array_equal(streamed.counts, found.counts)
    assert {fact.pixel_hash for fact in streamed.facts} != set()
    assert streamed.contents == ()


def test_a_file_that_is_gone_is_damaged(tmp_path: Path) -> None:
    transparent = save(np.dstack([scene(0), np.full((80, 90), 100, "uint8")]), tmp_path / "a.webp", lossless=True)
    assert list(facts_of([str(transparent)])) == [
        "a WebP or BMP with transparency, which is not decoded; save it without"
    ]
    (fact,) = facts_of([str(tmp_path / "gone.jpg")])
    assert isinstance(fact, str)
    assert "No such file" in fact
    (fact,) = facts_of([tf.io.encode_png(scene(0)).numpy()[:200]])
    assert isinstance(fact, str)
