"""`predict` of folders, of many images and of such that cannot be read."""

import json
from pathlib import Path

import pytest
from forked import Server

from resnet_keras.cli.main import main
from resnet_keras.inference import predict as predicting

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def images(digit_png: Path, tmp_path: Path) -> Path:
    """A folder with two images, one that is damaged between them, and a file that is no image's."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    content = digit_png.read_bytes()
    (folder / "a.png").write_bytes(content)
    (folder / "b.png").write_bytes(content[:60])
    (folder / "sub" / "c.PNG").write_bytes(content)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("kind", ["run", "servable"])
def test_the_others_are_answered(
    kind: str, digits_run: Path, servable: Path, images: Path, digit_png: Path, capsys: Capture
) -> None:
    source = str({"run": digits_run, "servable": servable}[kind])
    assert main(["predict", source, str(digit_png), str(images), "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    answered = [str(digit_png), str(images / "a.png"), str(images / "sub" / "c.PNG")]
    assert [one["image"] for one in found["predictions"]] == answered
    first = found["predictions"][0]
    assert all(one["labels"] == first["labels"] for one in found["predictions"])
    [bad] = found["errors"]
    assert bad["image"] == str(images / "b.png")
    assert "b.png is not an image, a damaged one" in bad["error"]
    assert err.splitlines() == [
        f"resnet-keras: {bad['error']}",
        "resnet-keras: 1 of 4 images could not be read; the others are answered",
    ]


def test_tensorflow_says_nothing_of_the_images_graph(
    commands: Server, digits_run: Path, servable: Path, digit_png: Path
) -> None:
    """Its pass over layouts did not know the sides of an image backwards by a slice."""
    for source in (digits_run, servable):
        code, said = commands.start(["predict", str(source), str(digit_png), "--top-k", "1"]).finish()
        assert code == 0
        assert "meta_optimizer" not in said


def test_in_words(
    digits_run: Path, images: Path, digit_png: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(predicting, "BATCH", 2)  # the second batch has one image that can be read, the first too
    (images / "sub" / "d.png").write_text("neither")
    assert main(["predict", str(digits_run), str(digit_png), str(images), "--top-k", "1"]) == 2
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == [
        str(digit_png),
        str(images / "a.png"),
        str(images / "sub" / "c.PNG"),
    ]
    assert "d.png is not an image" in err
    assert "2 of 5 images" in err


def test_nothing_to_predict(digits_run: Path, images: Path, capsys: Capture) -> None:
    assert main(["predict", str(digits_run), str(images / "b.png")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    (images / "empty").mkdir()
    assert main(["predict", str(digits_run), str(images / "empty")]) == 2
    assert "has no image: no file in it ends in" in capsys.readouterr().err
