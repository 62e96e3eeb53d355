"""What matplotlib draws: `report.html`, a run on one page that needs nothing beside it, and explained images."""

import base64
import html
import io
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.config.run_folder import REPORT
from resnet_keras.config.train import TrainConfig, flat
from resnet_keras.errors import UsageError
from resnet_keras.files import atomic_write, write_text, writing_to
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.explain import Explanation

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""
TRAIN_COLOUR, TEST_COLOUR, *_ = COLOURS
LARGEST_CONFUSION = 25
"""Classes beyond which the confusion matrix is no longer drawn."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr + tr td, tr + tr th {{ border-top: 1px solid #ddd; }} img {{ max-width: 100%; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{body}
</body></html>
"""


def write_report(
    folder: Path, config: TrainConfig, result: Evaluation, metrics: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """Write the report of a run into its folder, with `curves.png` beside it."""
    parts = []
    if rows:
        curves = png_of(draw_curves(rows))
        (folder / "curves.png").write_bytes(curves)
        parts += ["<h2>Training</h2>", image_tag(curves, "Loss, accuracy and learning rate by epoch")]
    parts += [f"<h2>Classes on the {'held-out images' if config.validation else 'test split'}</h2>"]
    if len(result.labels) <= LARGEST_CONFUSION:
        parts += [image_tag(png_of(draw_confusion(result)), "Confusion matrix")]
    parts += [_class_table(result), "<h2>Configuration</h2>", pairs_table(flat(config))]
    parts += ["<h2>Environment</h2>", pairs_table({**metrics["environment"], "seconds": round(metrics["seconds"], 1)})]
    end = " Interrupted before its end." if metrics["interrupted"] else ""
    summary = (
        f"{'Held-out' if config.validation else 'Test'} accuracy {result.accuracy:.2%}, top 5 "
        f"{result.top5_accuracy:.2%}, loss {result.loss:.4f}, on {result.examples:,} "
        f"{'training ' if config.validation else ''}images of {config.data}, after {metrics['epochs']} epochs.{end}"
    )
    title = f"{config.name}: {config.model} on {config.data}"
    page = PAGE.format(title=html.escape(title), summary=html.escape(summary), body="\n".join(parts))
    write_text(folder / REPORT, page)


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
    axes.plot(*zip(*tested, strict=True), color=TEST_COLOUR, marker=".", label="test")
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
    # In middle greys, for the lightness of the colours is what says the heat.
    heated.imshow(pixels.mean(-1), cmap=matplotlib.colormaps["gray"], vmin=-170, vmax=425)
    heat = heated.imshow(explanation.heat, cmap=matplotlib.colormaps["viridis"], vmin=0, vmax=1, alpha=0.6)
    figure.colorbar(heat, ax=heated, shrink=0.8, label="Share of the largest").ax.set_facecolor("0.5")
    height, width = explanation.map_size
    said = "no part speaks for it" if explanation.empty else f"from a map of {height}x{width}"
    for axes, title in ((plain, "Image"), (heated, f"Grad-CAM, {said}")):
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


def image_tag(png: bytes, text: str) -> str:
    """An image inside a page, and what it shows in words."""
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _class_table(result: Evaluation) -> str:
    head = "<tr><th>Class</th><th>Images</th><th>Recall</th><th>Precision</th></tr>"
    lines = [
        f"<tr><td>{html.escape(row['label'])}</td><td class=number>{row['examples']}</td>"
        f"<td class=number>{_percent(row['recall'])}</td><td class=number>{_percent(row['precision'])}</td></tr>"
        for row in result.per_class
    ]
    return f"<table>{head}{''.join(lines)}</table>"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def pairs_table(values: dict[str, Any]) -> str:
    """Names and values, a row each."""
    rows = (f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<table>{''.join(rows)}</table>"
