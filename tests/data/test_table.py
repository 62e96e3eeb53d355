"""CSV and Parquet files as data."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_keras.cli.main import main
from resnet_keras.config.train import TrainConfig
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import FileSplit
from resnet_keras.errors import UsageError
from resnet_keras.inference.evaluate import evaluate
from resnet_keras.training.trainer import run


def rows_of(folder: Path) -> list[tuple[str, str]]:
    """The images of a folder, and their classes."""
    return [(f"{file.parent.name}/{file.name}", file.parent.name) for file in sorted(folder.glob("*/*"))]


def table(folder: Path, *lines: str, name: str = "data.csv") -> str:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def files_of(split: Any) -> list[str]:
    assert isinstance(split, FileSplit)
    return ["/".join(Path(path).parts[-2:]) for path in split.paths]


def test_a_table_is_what_the_folder_is(image_folder: Path) -> None:
    folder = open_source(str(image_folder))
    made = open_source(
        table(image_folder, "image,label", *(f"{file},{label}" for file, label in rows_of(image_folder)))
    )
    assert made.labels == folder.labels
    for own, other in ((made.train, folder.train), (made.test, folder.test)):
        assert files_of(own) == files_of(other)
        np.testing.assert_array_equal(getattr(own, "targets", None), getattr(other, "targets", 0))


def test_splits_and_other_columns(image_folder: Path) -> None:
    words = {"0": "train", "1": "Training", "2": "val", "3": "validation", "4": "test", "5": "TEST"}
    lines = [f"7,{words[Path(file).stem]},{label},{file}" for file, label in rows_of(image_folder)]
    source = open_source(table(image_folder, "Id, Split ,LABEL,Image", *lines))
    parts: list[Any] = [source.train, source.validation, source.test]
    assert [sorted({Path(file).stem for file in files_of(part)}) for part in parts] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
    ]
    only = [line.replace("test", "val").replace("TEST", "val") for line in lines]
    source = open_source(table(image_folder, "id,split,label,image", *only))
    assert source.validation is None
    assert len(source.test) == 8


def test_what_a_spreadsheet_writes(image_folder: Path) -> None:
    """A byte order mark, line ends of Windows, quotes, absolute names, an empty last line, letters beyond ASCII."""
    (image_folder / "red" / "0.jpg").rename(image_folder / "red" / 'a,"é".jpg')
    (image_folder / "red" / "1.jpg").rename(image_folder / "b.jpg")
    path = image_folder / "sheet.csv"
    lines = ["image,label", '"red/a,""é"".jpg","rouge, é"', f'{image_folder / "b.jpg"},"rouge, é"']
    lines += ["blue/0.jpg,bleu", " blue/1.jpg , bleu ", ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    source = open_source(str(path))
    assert source.labels == ("bleu", "rouge, é")
    assert len(source.train) + len(source.test) == 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["image,class", "red/0.jpg,red"], "has no column label; it has image, class"),
        (["file;label", "red/0.jpg;red"], "no column image and no column label; it has file;label"),
        ([], "no column image and no column label; it is empty"),
        (["image,label,image", "red/0.jpg,red,x"], "has the column image twice"),
        (["image,label"], "has no rows"),
        (["image,label", "red/0.jpg,red", "red/1.jpg,red"], "needs two labels or more; it has one, red"),
        (["image,label", "red/0.jpg,red", "gone.jpg,red", "gone.jpg,red"], r"rows 3, 4: there is no file gone\.jpg"),
        (["image,label", "red/0.jpg,", "red/1.jpg, ", ",red"], "rows 2, 3: the label is empty; .*row 4: the image is"),
        (["image,label,split", "red/0.jpg,red,tset"], "row 2: the split is 'tset'; it is train, validation or test"),
        (["image,label,split", "red/0.jpg,red,"], "row 2: the split is empty"),
        (["image,label", "red/0.jpg,red", "red/0.jpg,blue"], "has the label 'red' in row 2 .*one cell, as in red.blue"),
        (["image,label", "red/0.jpg,red,3"], "row 2 has 3 fields and the first line 2; fields with a comma are quoted"),
        (["image,label", 'red/0.jpg,"red'], "line 2: unexpected end of data"),
        (["image,label", "red/0.jpg,red|round", "red/1.jpg,round"], "label red has one image; a label needs two"),
        (["image,label", "red/0.jpg,red|", "red/1.jpg,"], "needs two labels or more; it has one, red"),
        (["image,label", "red/0.jpg,|", "red/1.jpg,"], "needs two labels or more; it has none"),
        (["image,label", "red/0.jpg,a|b", "red/0.jpg,b"], r"row 3: image red/0.jpg has the label 'a\|b' in row 2 and"),
        (["image,label,split", "red/0.jpg,a|b,train", "blue/0.jpg,c|,test"], "label c has no image to train on"),
        (
            ["image,label", "red/0.jpg,red", "red/1.jpg,red", "blue/0.jpg,blue"],
            "class blue has one image; a class needs",
        ),
        (["image,label,split", "red/0.jpg,red,train", "blue/0.jpg,blue,test"], "class blue has no image to train on"),
        (["image,label,split", "red/0.jpg,red,train", "blue/0.jpg,blue,train"], "has no image to test with"),
        (["image,label", f"{'x' * 5000},red"], "row 2: there is no file xxx"),
    ],
)
def test_bad_tables(image_folder: Path, lines: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        open_source(table(image_folder, *lines))
    assert "\n" not in str(error.value)
    assert any(word in str(error.value) for word in ("data.csv", "class", "label"))


def test_bad_files(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("image,label\nred/é.jpg,red\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.csv is not UTF-8 in line 2; save it as UTF-8"):
        open_source(str(tmp_path / "latin.csv"))
    with pytest.raises(UsageError, match="there is no such file"):
        open_source(str(tmp_path / "gone.csv"))
    (tmp_path / "no.parquet").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"cannot read .*no\.parquet: .*; it must be a Parquet file"):
        open_source(str(tmp_path / "no.parquet"))
    with pytest.raises(UsageError, match=r"is a file; give a folder of class/file .*, a \.csv or a \.parquet"):
        open_source(str(image_folder / "red" / "0.jpg"))


def test_parquet(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, path = rows_of(image_folder), image_folder / "data.parquet"
    images = [file for file, _ in rows]
    codes = [int(label == "red") for _, label in rows]
    pq.write_table(pa.table({"image": images, "label": codes, "split": ["train", "test"] * 6}), path)
    source = open_source(str(path))
    assert source.labels == ("0", "1")
    assert files_of(source.test) == images[1::2]
    np.testing.assert_array_equal(getattr(source.test, "targets", None), codes[1::2])
    pq.write_table(pa.table({"image": [*images, None], "label": [*codes, None]}), path)
    with pytest.raises(UsageError, match=r"data\.parquet, row 13: the image is empty"):
        open_source(str(path))
    pq.write_table(pa.table({"image": [{"bytes": b"x"}], "label": [0]}), path)
    with pytest.raises(UsageError, match="the column image must hold names of files, not dict"):
        open_source(str(path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"needs pyarrow, .*pip install 'resnet-keras\[parquet\]'"):
        open_source(str(path))


def test_a_table_trains_and_is_evaluated(
    tiny: TrainConfig,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = table(image_folder, "image,label", *(f"{file},{label}" for file, label in rows_of(image_folder)))
    config = dataclasses.replace(tiny, data=path, image_size=16, batch_size=4, epochs=1, run_dir=str(tmp_path / "run"))
    result = run(config)
    assert result.metrics["validation"]["examples"] == 2
    assert evaluate(result.run_dir).examples == evaluate(result.run_dir, str(image_folder)).examples == 2
    assert main(["data", path, "--output", str(tmp_path / "page.html")]) == 0
    assert "12 images in 2 classes" in capsys.readouterr().out
    assert "blue/0.jpg" in (tmp_path / "page.html").read_text()
    monkeypatch.chdir(image_folder)
    table(image_folder, "image,label", "red/0.jpg,red", "blue/0.jpg,blue", "gone.jpg,red", name="bad.csv")
    assert main(["data", "bad.csv", "--output", str(tmp_path / "bad.html")]) == 2
    assert "refused: bad.csv, row 4: there is no file gone.jpg." in capsys.readouterr().out  # a name as it is
