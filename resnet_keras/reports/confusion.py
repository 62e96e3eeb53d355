"""What the classes of an evaluation are taken for: a matrix of few classes, a map, list and table of many."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.reports.drawing import INK, svg_of
from resnet_keras.reports.html import Cell
from resnet_keras.reports.plots import LARGEST_CONFUSION

CONFUSIONS = 30
"""Confusions that are listed where the matrix is not shown."""
LARGEST_TABLE = 1000
"""Classes that are in the table, the worst ones where there are more. So a report stays below a megabyte."""
MAP_CELLS = 250
"""A side of the map has at most so many cells."""
MAP_COLOUR = "#3b8fd4"
"""On white and on black."""


def class_views(result: Evaluation) -> dict[str, Any]:
    """What the template shows of the classes: `matrix`, or `map` and `confusions`; and the table `classes`.

    Of several labels an image the table alone: none is taken for another.
    """
    few = len(result.labels) <= LARGEST_CONFUSION
    if result.several:
        return {"matrix": None, "map": None, "confusions": None, "classes": label_table(result, worst_first=not few)}
    return {
        "matrix": matrix_of(result) if few else None,
        "map": None if few else draw_map(result),
        "confusions": None if few else confusions_of(result),
        "classes": class_table(result, worst_first=not few),
    }


def matrix_of(result: Evaluation) -> list[tuple[str, list[tuple[int, float, bool]]]]:
    """A row a true class: counts, how dark each is, and whether it is dark enough for light ink."""
    parts = _of_true_class(result)
    # With a gap in the middle, where neither ink could be read.
    shades = np.where(parts < 0.7, 0.8 * parts, 0.5 * parts + 0.5).round(3)
    return [
        (label, list(zip(counts, own, [part >= 0.7 for part in row], strict=True)))
        for label, counts, own, row in zip(
            result.labels, result.confusion.tolist(), shades.tolist(), parts.tolist(), strict=True
        )
    ]


def draw_map(result: Evaluation) -> str:
    """The whole matrix as a small map. A cell stands for several classes where they are many: it shows the largest."""
    parts, count = _of_true_class(result), len(result.labels)
    block = -(-count // MAP_CELLS)
    cells = -(-count // block)
    padded = np.zeros((cells * block, cells * block))
    padded[:count, :count] = parts
    largest = padded.reshape(cells, block, cells, block).max((1, 3))
    # By the square root, so that rare confusions are seen too.
    opacity = np.sqrt(largest)[..., None]
    image = np.concatenate([np.broadcast_to(to_rgb(MAP_COLOUR), (*largest.shape, 3)), opacity], -1)
    figure = Figure(figsize=(4.6, 4.4))
    figure.subplots_adjust(0.15, 0.12, 0.97, 0.98)
    axes = figure.subplots()
    edge = cells * block + 0.5
    axes.imshow(image, extent=(0.5, edge, edge, 0.5), interpolation="none")
    axes.set_xlabel("Predicted class (No.)", fontsize=9, color=INK)
    axes.set_ylabel("True class (No.)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK)
    for spine in axes.spines.values():
        spine.set(color=INK, alpha=0.4)
    return svg_of(figure, "Confusion matrix of all classes: on the diagonal what is correct")


def confusions_of(result: Evaluation) -> list[list[Cell]]:
    """The most frequent confusions: true class, predicted class, images, and their part of the true class."""
    wrong = _wrong(result)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := int(wrong[true, predicted]):
            part = count / result.confusion[true].sum()
            names = Cell(result.labels[true]), Cell(result.labels[predicted])
            rows.append([*names, Cell(f"{count:,}", count), Cell(f"{part:.1%}", part)])
    return rows


def class_table(result: Evaluation, *, worst_first: bool) -> dict[str, Any]:
    """Precision, recall and F1 of each class; `worst_first` by F1, with numbers and what each is taken for."""
    rows = [_class_row(row) for row in result.per_class]
    head = ["Class", "Images", "Precision", "Recall", "F1"]
    if not worst_first:
        return {"head": head, "rows": rows, "sorted_by": "", "left_out": 0}
    wrong = _wrong(result)
    for number, (row, own) in enumerate(zip(rows, wrong, strict=True), 1):
        taken = int(own.argmax())
        row.insert(1, Cell(str(number), number))
        row.append(Cell(f"{result.labels[taken]} ({own[taken]:,})" if own[taken] else ""))
    # Classes without an image have no F1: last.
    order = sorted(range(len(rows)), key=lambda i: (_score(rows[i]) < 0, _score(rows[i]), i))
    return {
        "head": [head[0], "No.", *head[1:], "Mostly taken for"],
        "rows": [rows[i] for i in order[:LARGEST_TABLE]],
        "sorted_by": "F1",
        "left_out": max(len(rows) - LARGEST_TABLE, 0),
    }


def label_table(result: Evaluation, *, worst_first: bool) -> dict[str, Any]:
    """Precision, recall and F1 of each label at its threshold, and its average precision; `worst_first` by that."""
    rows = []
    for row in result.per_class:
        parts = [row[name] for name in ("precision", "recall", "f1", "average_precision", "threshold")]
        cells = [Cell(_percent(part), -1.0 if part is None else round(part, 4)) for part in parts]
        rows.append([Cell(row["label"]), Cell(f"{row['examples']:,}", row["examples"]), *cells])
    head = ["Label", "Images", "Precision", "Recall", "F1", "Average precision", "Threshold"]
    if worst_first:
        rows.sort(key=lambda row: (_score(row) < 0, _score(row)))
    return {
        "head": head,
        "rows": rows[:LARGEST_TABLE],
        "sorted_by": head[5] if worst_first else "",
        "left_out": max(len(rows) - LARGEST_TABLE, 0) if worst_first else 0,
    }


def _score(row: list[Cell]) -> float:
    """The F1 of a class in a row with its number; of a label, in the same place, the average precision."""
    number = row[5].number
    assert number is not None
    return number


def _class_row(row: dict[str, Any]) -> list[Cell]:
    precision, recall = row["precision"], row["recall"]
    both = (precision or 0) + (recall or 0)
    f1 = None if recall is None else 2 * (precision or 0) * recall / both if both else 0.0
    cells = [Cell(_percent(part), -1.0 if part is None else round(part, 4)) for part in (precision, recall, f1)]
    return [Cell(row["label"]), Cell(f"{row['examples']:,}", row["examples"]), *cells]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _of_true_class(result: Evaluation) -> np.ndarray:
    """The confusion matrix as fractions of its rows."""
    return result.confusion / np.maximum(result.confusion.sum(1, keepdims=True), 1)


def _wrong(result: Evaluation) -> np.ndarray:
    return result.confusion - np.diag(np.diag(result.confusion))
