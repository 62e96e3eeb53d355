"""Gradient norm by block: the "+1" of dL/dx = dL/dy (dF/dx + 1), at initialisation and along training.

He et al. 2016, section 2, equations 4 and 5.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from matplotlib.figure import Figure

from resnet_keras.data.splits import Source
from resnet_keras.experiments.anatomy import gradient_norms
from resnet_keras.experiments.experiment_config import (
    ExperimentConfig,
    Net,
    from_identity,
    plain,
    post_norm,
    pre_norm,
    pre_norm_from_identity,
    residual,
)
from resnet_keras.experiments.finding import Finding, Plot
from resnet_keras.experiments.grid import AGAIN, train_all, training_images
from resnet_keras.files import json_text, read_json, write_text
from resnet_keras.reports.plots import COLOURS
from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup, image_format_for, network_of

KEPT = "gradients.json"
KINDS = (plain, residual, from_identity)
NORM_KINDS = (post_norm, pre_norm, pre_norm_from_identity)
"""Of the nets with layer norm."""
Measure = Callable[[keras.Model, Any, Any], list[float]]
"""The gradient norms of a net for images and their labels, a number a block."""
APART = 10.0
"""A factor by which a gradient may change on its way and still count as having stayed."""


def gradients(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Nets of all depths as they are made, and those of the middle depth along their training."""
    kinds = KINDS if settings.network == "resnet" else NORM_KINDS
    rows = rows_at_start(settings.nets(*kinds), settings, source)
    middle = sorted(settings.depths)[len(settings.depths) // 2]
    trained = [make(middle) for make in kinds]
    once = dataclasses.replace(settings, seeds=1)
    along = []
    for net, run in zip(trained, train_all(trained, once, source, folder, [Along]), strict=True):
        kept = read_json(run.folder / KEPT, AGAIN)
        along += [row for step, norms in kept.items() for row in _rows(net, run.seed, int(step), norms)]
    plots = (
        norms_plot("gradients-start", "Gradient behind each block at initialisation, by depth", rows, "depth"),
        norms_plot("gradients-training", f"The same along training, {middle} layers", along, "step"),
    )
    title = f"Gradients on {settings.data}: {', '.join(net.kind for net in trained)}"
    return Finding(title, tuple(conclusions(rows)), plots, _ends(rows + along))


def rows_at_start(
    nets: Sequence[Net],
    settings: ExperimentConfig,
    source: Source,
    measure: Measure = gradient_norms,
    images: int | None = None,
) -> list[dict[str, Any]]:
    """The gradient norms of nets that have learnt nothing yet: a row a net, seed and block. See `at_start`."""
    rows = []
    for net in nets:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            rows += _rows(net, seed, 0, at_start(net, settings, source, seed, measure, images))
            keras.utils.clear_session()
    return rows


def at_start(
    net: Net,
    settings: ExperimentConfig,
    source: Source,
    seed: int,
    measure: Measure = gradient_norms,
    images: int | None = None,
) -> list[float]:
    """The gradient norms of a net that has learnt nothing yet, for the first images: so many, or a batch."""
    config = net.config(settings, seed, "unused")
    shape = image_format_for(config, source)
    keras.utils.set_random_seed(seed)
    network = network_of(config, source, shape)
    return measure(network, *training_images(source, shape, images or config.batch_size))


class Along(RunCallback):
    """Measures at the start and after each epoch, and writes the results into the run folder."""

    def __init__(self, setup: TrainingSetup, record: Record) -> None:
        super().__init__(setup, record)
        self._path = record.folder / KEPT
        self._batch = training_images(setup.source, setup.shape, setup.config.batch_size)

    def on_train_begin(self, logs: Any = None) -> None:
        if self.record.step == 0:  # a resumed run was measured at its start
            self._measure()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._measure()

    def _measure(self) -> None:
        kept = read_json(self._path, AGAIN) if self._path.is_file() else {}
        kept[str(self.record.step)] = gradient_norms(self.setup.network, *self._batch)
        write_text(self._path, json_text(kept) + "\n")


def _rows(net: Net, seed: int, step: int, norms: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"kind": net.kind, "depth": net.depth, "seed": seed, "step": step, "block": block, "norm": norm}
        for block, norm in enumerate(norms)
    ]


def ratio(norms: Sequence[float]) -> float:
    """How many times longer the gradient is behind the stem than behind the last block; what underflows counts as the
    smallest number."""
    least = float(np.finfo("float32").tiny)
    return max(norms[0], least) / max(norms[-1], least)


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int, int, int], list[float]]:
    groups: dict[tuple[str, int, int, int], list[float]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["depth"], row["seed"], row["step"]), []).append(row["norm"])
    return groups


def _ends(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a net and moment."""
    return [
        {
            "kind": kind,
            "depth": depth,
            "seed": seed,
            "step": step,
            "behind_stem": norms[0],
            "behind_last_block": norms[-1],
            "ratio": ratio(norms),
        }
        for (kind, depth, seed, step), norms in _grouped(rows).items()
    ]


def conclusions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the gradients at initialisation show."""
    ratios: dict[tuple[str, int], list[float]] = {}
    for (kind, depth, _, _), norms in _grouped(rows).items():
        ratios.setdefault((kind, depth), []).append(ratio(norms))
    depths = sorted({depth for _, depth in ratios})
    means = {kind: [statistics.geometric_mean(ratios[kind, depth]) for depth in depths] for kind, _ in ratios}
    at = ", ".join(map(str, depths))
    lines = [f"{kind} {', '.join(f'{value:.3g}' for value in line)}" for kind, line in means.items()]
    first = (
        "At initialisation the length of the gradient behind the stem, over that behind the last block, is at "
        f"{at} layers: {'; '.join(lines)}."
    )
    ways = ", ".join(f"{_way(line[-1])} ({kind})" for kind, line in means.items())
    return [first, f"From end to end of {depths[-1]} layers it {ways}."]


def _way(value: float) -> str:
    if 1 / APART <= value <= APART:
        return f"stays within a factor of {APART:g}"
    return f"grows {value:.2g} times" if value > 1 else f"shrinks {1 / value:.2g} times"


AXES = ("From stem (0) to last block (1)", "Norm of the gradient of the loss")


def norms_plot(
    name: str,
    words: str,
    rows: Sequence[dict[str, Any]],
    colours: str,
    labels: tuple[str, str] = AXES,
    scale: Literal["log", "linear"] = "log",
) -> Plot:
    """A norm by block: a panel a kind, a line a seed.

    Args:
        name, words: of the image.
        rows: kind, depth, seed, step, block and norm.
        colours: the field whose values have a colour each, depth or step.
        labels: of the axes.
        scale: of the norms; linear begins at 0.
    """
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    values = sorted({row[colours] for row in rows})
    shown = values if len(values) <= len(COLOURS) else [values[i * (len(values) - 1) // 5] for i in range(6)]
    figure = Figure(figsize=(11 / 3 * max(2.5, len(kinds)), 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        for (own, depth, seed, step), norms in _grouped(rows).items():
            value = {"depth": depth, "step": step}[colours]
            if own == kind and value in shown:
                first = seed == min(row["seed"] for row in rows)
                label = {"depth": f"{depth} layers", "step": f"step {step:,}"}[colours] if first else None
                share = [i / max(1, len(norms) - 1) for i in range(len(norms))]
                axes.plot(share, norms, color=COLOURS[shown.index(value)], lw=1.5 if first else 0.7, label=label)
        axes.set(title=kind, xlabel=labels[0], yscale=scale)
        axes.grid(alpha=0.3)
    first_axes = figure.axes[0]
    first_axes.set(ylabel=labels[1])
    first_axes.legend()
    if scale == "linear":
        first_axes.set(ylim=(0, None))  # once all panels, which share it, have their lines
    return Plot(name, words, figure, rows)
