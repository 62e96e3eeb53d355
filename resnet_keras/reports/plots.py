"""What matplotlib draws of a run: curves, the confusion matrix, explained images."""

import io
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.errors import UsageError
from resnet_keras.files import atomic_write, writing_to
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.explain import Explanation

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""
TRAIN_COLOUR, TEST_COLOUR, *_ = COLOURS
LARGEST_CONFUSION = 25
"""Classes beyond which the confusion matrix is no longer drawn."""


def draw_curves(rows: list[dict[str, Any]]) -> Figure:
    """Loss, accuracy and learning rate of a run, by epoch."""
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    _lines(loss, epochs, rows, "loss", "Loss (nats)")
    _lines(accuracy, epochs, rows, "accuracy", "Accuracy (%)", 100)
    rate.plot(epochs, [row["learning_rate"] for row in rows], color="#555", marker=".")
    rate.set(title="Learning rate at the epoch's end", xlabel="Epoch")
    for axes in (loss, accuracy, rate):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def _lines(axes: Axes, epochs: list[int], rows: list[dict[str, Any]], name: str, title: str, scale: float = 1) -> None:
    axes.plot(epochs, [row[name] * scale for row in rows], color=TRAIN_COLOUR, marker=".", ls="--", label="training")
    tested = [(row["epoch"], row[f"val_{name}"] * scale) for row in rows if row[f"val_{name}"] is not None]
    axes.plot(*zip(*tested, strict=True), color=TEST_COLOUR, marker=".", label=rows[-1].get("split", "test"))
    axes.set(title=title, xlabel="Epoch")
    axes.legend()


def draw_confusion(result: Evaluation) -> Figure:
    """True classes down, predicted classes across, counts in the cells."""
    count = len(result.labels)
    side = 2.5 + 0.45 * count
    figure = Figure(figsize=(side, side * 0.9), layout="constrained")
    axes = figure.subplots()
    shares = result.confusion / np.maximum(result.confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    for row, column in np.argwhere(result.confusion):
        ink = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(result.confusion[row, column]), ha="center", va="center", color=ink, fontsize=8)
    # A class may be called $x$: no formulas.
    axes.set_xticks(range(count), result.labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(count), result.labels, parse_math=False)
    axes.set(xlabel="Predicted", ylabel="True", title="Images by true and predicted class")
    return figure


def draw_explanation(explanation: Explanation) -> Figure:
    """An image, and beside it the same one in grey under the colours of its heat."""
    pixels = explanation.pixels
    figure = Figure(figsize=(10, max(2.5, 0.7 + 4.3 * len(pixels) / pixels.shape[1])), layout="constrained")
    plain, heated = figure.subplots(1, 2)
    plain.imshow(pixels if pixels.shape[-1] == 3 else np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    # In middle greys, for the lightness of the colours is what shows the heat.
    heated.imshow(pixels.mean(-1), cmap=matplotlib.colormaps["gray"], vmin=-170, vmax=425)
    heat = heated.imshow(explanation.heat, cmap=matplotlib.colormaps["viridis"], vmin=0, vmax=1, alpha=0.6)
    figure.colorbar(heat, ax=heated, shrink=0.8, label="Share of the largest").ax.set_facecolor("0.5")
    height, width = explanation.map_size
    source = "no part speaks for it" if explanation.empty else f"from a map of {height}x{width}"
    for axes, title in ((plain, "Image"), (heated, f"Grad-CAM, {source}")):
        axes.set(title=title, xticks=[], yticks=[])
    figure.suptitle(f"{explanation.label} {explanation.score:.4f}", parse_math=False)
    return figure


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write `draw_explanation` as a PNG file, whole or not at all. Raises `UsageError` where that cannot be."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"output {path} must end in .png")
    with writing_to(path.parent), atomic_write(path) as beside:
        beside.write_bytes(png_of(draw_explanation(explanation)))


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a class name in a script that the font lacks
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
