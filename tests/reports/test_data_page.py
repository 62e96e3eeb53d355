"""The command `data` and its page."""

import json
from pathlib import Path

import pytest
from browser import check_page
from selenium import webdriver

from resnet_keras.cli.main import main
from resnet_keras.data.inspection import inspect
from resnet_keras.reports import data as page_module
from resnet_keras.reports.data import write_data_page

Capture = pytest.CaptureFixture[str]


def test_a_sound_folder(image_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", str(image_folder)]) == 0
    printed = capsys.readouterr()
    assert "12 images in 2 classes: 8 to train, 2 to validate, 2 to test (split by a hash of each name)" in printed.out
    assert "page in images-data.html" in printed.out
    page = (tmp_path / "images-data.html").read_text()
    assert "Training takes this data." in page
    assert page.count("data:image/") == 8  # every training image of each class
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_data_that_training_refuses(
    image_folder: Path, tmp_path: Path, capsys: Capture, browser: webdriver.Chrome
) -> None:
    (image_folder / "red" / "<b>.jpg").write_bytes(b"no image")
    (image_folder / "blue" / "copy.jpg").write_bytes((image_folder / "red" / "0.jpg").read_bytes())
    output = tmp_path / "page.html"
    assert main(["data", str(image_folder), "--output", str(output), "--json"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["usable"], found["images"], len(found["damaged"])) == (False, 13, 1)
    assert found["duplicates"][0]["different_labels"]
    assert [one["level"] for one in found["advice"]].count("refused") == 1
    assert printed.err.strip().count("\n") == 0
    assert "training would refuse" in printed.err
    page = output.read_text()
    assert "Training refuses this data." in page
    assert "red/&lt;b&gt;.jpg" in page
    assert "Different labels" in page
    check_page(browser, output)


def test_the_page_of_many_classes_stays_small(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MOST_SAMPLES", 3)
    write_data_page(inspect(str(image_folder)), 32, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("data:image/") == 2


def test_wrong_words(image_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    for words, said in (
        ([str(tmp_path / "nothing")], "there is no such folder"),
        ([str(image_folder), "--output", str(tmp_path)], "is a folder; give the name of a file"),
        ([str(image_folder), "--output", str(tmp_path / "no" / "page.html")], "cannot write to"),
        ([str(image_folder), "--image-size", "0"], "image_size must be at least 1"),
    ):
        assert main(["data", *words]) == 2
        assert said in capsys.readouterr().err
