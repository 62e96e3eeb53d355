"""A table of images as data: a CSV or Parquet file of the columns image, label and, if it likes, split."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.data.listing import MOST_NAMED, Listing, SplitName
from resnet_keras.errors import UsageError, needs_extra, reason

SUFFIXES = (".csv", ".parquet")
IMAGE, LABEL, SPLIT = "image", "label", "split"
SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
SEPARATOR = "|"
"""Between the labels of an image."""

Row = tuple[int, str, str, str]
"""The number of a row in its file, its image, its label, its split."""


def list_table(path: Path) -> Listing:
    """List the images of a table: a row an image, of its file, its label and, where there is such a column, its split.

    Files are named as seen from the table's folder, or absolutely. Without a column `split` a fifth of each class,
    always the same, is the test split. Of the splits test and validation each is the test split where the other is
    absent. Where a row has several labels, as in `cat|dog`, every row can have several, one or, left empty, none. What
    cannot be used is among the listing's `problems`, with the numbers of the rows.

    Raises `UsageError` for a file that is no such table.
    """
    columns, rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _parquet_rows(path)
    faults: dict[str, list[int]] = defaultdict(list)
    known: dict[str, Row] = {}
    listed = list(rows)
    several = any(SEPARATOR in label for _, _, label, _ in listed)
    for row in listed:
        number, image, label, split = row
        label = SEPARATOR.join(_labels_in(label)) if several else label
        if fault := _fault_of(path, row, has_splits=SPLIT in columns, several=several):
            faults[fault].append(number)
            continue
        # Not resolved: a link is a name of its own.
        file = str(path.parent / image)
        first = known.setdefault(file, (number, file, label, SPLIT_WORDS.get(split.lower(), "train")))
        for name, own, other in ((LABEL, label, first[2]), (SPLIT, SPLIT_WORDS.get(split.lower(), "train"), first[3])):
            if own != other:
                hint = (
                    f"; several labels go into one cell, as in {other}{SEPARATOR}{own}"
                    if name == LABEL and not several
                    else ""
                )
                faults[f"image {image} has the {name} {other!r} in row {first[0]} and another{hint}"].append(number)
    each = [_labels_in(label) if several else [label] for _, _, label, _ in known.values()]
    labels = sorted({label for own in each for label in own})
    problems = [f"{path}, {_numbers(numbers)}: {fault}" for fault, numbers in faults.items()]
    if not known and not problems:
        problems.append(f"{path} has no rows")
    elif len(labels) < 2 and not problems:
        found = f"one, {labels[0]}" if labels else "none"
        problems.append(f"{path} needs two labels or more; it has {found}")
    places = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(each), len(labels)), bool)
    for target, own in zip(targets, each, strict=True):
        target[[places[label] for label in own]] = True
    targets = targets if several else targets.argmax(1) if len(each) else np.zeros(0, "int64")
    splits = _splits([split for *_, split in known.values()]) if SPLIT in columns else None
    return Listing(str(path), tuple(labels), tuple(known), targets, splits, tuple(problems))


def _splits(words: Sequence[str]) -> np.ndarray:
    splits = np.array(words, "<U10")
    if not (splits == "test").any():
        splits[splits == "validation"] = "test"
    return splits


def _labels_in(cell: str) -> list[str]:
    """The labels of an image, each once and in order."""
    return sorted({label for part in cell.split(SEPARATOR) if (label := part.strip())})


def _fault_of(path: Path, row: Row, *, has_splits: bool, several: bool) -> str | None:
    """What is wrong with a row alone."""
    _, image, label, split = row
    if not image:
        return "the image is empty"
    if not label and not several:
        return "the label is empty"
    if not label.isprintable():
        return f"the label {label!r} is not printable"
    if has_splits and split.lower() not in SPLIT_WORDS:
        return f"the split is {split!r}; it is train, validation or test" if split else "the split is empty"
    try:
        there = (path.parent / image).is_file()
    except (OSError, ValueError):
        there = False
    return None if there else f"there is no file {image}"


def _numbers(numbers: Sequence[int]) -> str:
    some = ", ".join(map(str, numbers[:MOST_NAMED]))
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    return f"row{'' if len(numbers) == 1 else 's'} {some}{more}"


def _csv_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    """The columns and the rows; a row's number is that of its last line, as an editor counts."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path} is not UTF-8 in line {line}; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        found = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {reader.line_num}: {error}; fields with a comma or a quote are quoted"
        ) from error
    columns = [cell.strip().lower() for cell in found[0][1]] if found else []
    _check_columns(path, columns)
    for number, cells in found[1:]:
        if len(cells) != len(columns):
            raise UsageError(
                f"{path}, row {number} has {len(cells)} field{'' if len(cells) == 1 else 's'} and the first line "
                f"{len(columns)}; fields with a comma are quoted"
            )
    places = [columns.index(name) if name in columns else None for name in (IMAGE, LABEL, SPLIT)]

    def rows() -> Iterator[Row]:
        for number, cells in found[1:]:
            image, label, split = ("" if place is None else cells[place].strip() for place in places)
            yield number, image, label, split

    return columns, rows()


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    """The columns and the rows, which are counted from 1."""
    with needs_extra(f"--data {path.name}", "parquet"):
        import pyarrow
        import pyarrow.parquet
    try:
        table: Any = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"cannot read {path}: {reason(error)}; it must be a Parquet file") from error
    columns = [name.strip().lower() for name in table.column_names]
    _check_columns(path, columns)
    names = [name for name in (IMAGE, LABEL, SPLIT) if name in columns]
    values: dict[str, list[Any]] = {name: table.column(columns.index(name)).to_pylist() for name in names}
    for name, own in values.items():
        kinds = (str, int, list) if name == LABEL else (str,)
        wrong = next((value for value in own if value is not None and not isinstance(value, kinds)), None)
        if wrong is not None:
            wanted = {IMAGE: "names of files", LABEL: "texts, whole numbers or lists of them", SPLIT: "texts"}[name]
            raise UsageError(f"{path}: the column {name} must hold {wanted}, not {type(wrong).__name__}")

    def rows() -> Iterator[Row]:
        for number in range(1, len(values[IMAGE]) + 1):
            cells = (values[name][number - 1] if name in values else None for name in (IMAGE, LABEL, SPLIT))
            image, label, split = (_text_of(cell) for cell in cells)
            yield number, image, label, split

    return columns, rows()


def _text_of(cell: Any) -> str:
    if isinstance(cell, list):
        return "".join(f"{item}{SEPARATOR}" for item in cell) or SEPARATOR
    return "" if cell is None else str(cell).strip()


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in (IMAGE, LABEL) if name not in columns]
    if missing:
        found = f"; it has {', '.join(columns)}" if columns else "; it is empty"
        raise UsageError(
            f"{path} has no column {' and no column '.join(missing)}{found}; the first line names the columns"
        )
    double = next((name for name in (IMAGE, LABEL, SPLIT) if columns.count(name) > 1), None)
    if double:
        raise UsageError(f"{path} has the column {double} twice")
