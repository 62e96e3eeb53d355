"""What matplotlib draws of a run: curves, the confusion matrix, explained images."""

import io
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from resnet_keras.errors import UsageError
from resnet_keras.files import atomic_write, writing_to
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.explain import Explanation

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""
TRAIN_COLOUR, TEST_COLOUR, *_ = COLOURS
DPI = 110
PANEL, LARGEST_PANEL = 4.3, 9.4
"""Inches of the longer side of an explained image; in between, a pixel is a pixel."""
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
    """An image at its own resolution, and beside it the same one in grey under the colours of its heat.

    What the network sees of it has a frame, where that is not all of it. Where only the prepared pixels are known, they
    are the image.

    Args:
        explanation: of `explain`.

    Returns:
        A figure of matplotlib.

    Examples:
        >>> figure = rk.draw_explanation(rk.explain("cifar10-jpeg", "cat.jpg"))
        >>> figure.savefig("explained.png")
    """
    image, window = explanation.image, explanation.window
    if image is None or window is None:
        pixels = explanation.pixels
        image = pixels if pixels.shape[-1] == 3 else np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        window = (0, 0, image.shape[0], image.shape[1])
    height, width = image.shape[:2]
    side = min(max(max(height, width) / DPI, PANEL), LARGEST_PANEL) / max(height, width)
    figure = Figure(figsize=(1.4 + 2 * max(side * width, 3), 0.7 + max(side * height, 1.8)), layout="constrained")
    plain, heated = figure.subplots(1, 2)
    plain.imshow(image)
    # In middle greys, for the lightness of the colours is what shows the heat.
    heated.imshow(image.mean(-1), cmap=matplotlib.colormaps["gray"], vmin=-170, vmax=425)
    top, left, bottom, right = (edge - 0.5 for edge in window)
    viridis, extent = matplotlib.colormaps["viridis"], (left, right, bottom, top)
    heat = heated.imshow(
        explanation.heat, cmap=viridis, vmin=0, vmax=1, alpha=0.6, extent=extent, interpolation="bilinear"
    )
    seen_whole = max(top, left, height - 1 - bottom, width - 1 - right) < 0.5
    for axes in (plain, heated):
        for colour, thickness in () if seen_whole else (("black", 3.0), ("white", 1.2)):
            axes.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=thickness)
            )
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    figure.colorbar(heat, ax=heated, shrink=0.8, label="Share of the largest").ax.set_facecolor("0.5")
    rows, columns = explanation.map_size
    source = "no part speaks for it" if explanation.empty else f"from a map of {rows}x{columns}"
    image_title = "Image" if seen_whole else "Image; framed, what the network sees"
    for axes, title in ((plain, image_title), (heated, f"Grad-CAM, {source}")):
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
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
