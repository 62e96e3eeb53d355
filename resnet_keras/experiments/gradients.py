"""Gradient norm by block: the "+1" of dL/dx = dL/dy (dF/dx + 1), at initialisation and along training.

He et al. 2016, section 2, equations 4 and 5.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from resnet_keras.data.splits import Source
from resnet_keras.experiments.anatomy import gradient_norms
from resnet_keras.experiments.experiment_config import ExperimentConfig, Net, from_identity, plain, residual
from resnet_keras.experiments.finding import Finding, Plot
from resnet_keras.experiments.grid import AGAIN, train_all, training_images
from resnet_keras.files import json_text, read_json, write_text
from resnet_keras.reports.plots import COLOURS
from resnet_keras.training.callbacks import RunCallback
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup, image_format_for, network_of

KEPT = "gradients.json"
KINDS = (plain, residual, from_identity)
APART = 10.0
"""A factor by which a gradient may change on its way and still count as having stayed."""


def gradients(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Nets of all depths as they are made, and those of the middle depth along their training."""
    rows = []
    for depth in sorted(settings.depths):
        for make in KINDS:
            for seed in range(settings.seed, settings.seed + settings.seeds):
                norms = at_start(make(depth), settings, source, seed)
                rows += _rows(make(depth), seed, 0, norms)
                keras.utils.clear_session()
    middle = sorted(settings.depths)[len(settings.depths) // 2]
    trained = [make(middle) for make in KINDS]
    once = dataclasses.replace(settings, seeds=1)
    along = []
    for net, run in zip(trained, train_all(trained, once, source, folder, [Along]), strict=True):
        kept = read_json(run.folder / KEPT, AGAIN)
        along += [row for step, norms in kept.items() for row in _rows(net, run.seed, int(step), norms)]
    plots = (
        _plot("gradients-start", "Gradient behind each block at initialisation, by depth", rows, "depth"),
        _plot("gradients-training", f"The same along training, {middle} layers", along, "step"),
    )
    title = f"Gradients on {settings.data}: plain against residual nets"
    return Finding(title, tuple(conclusions(rows)), plots, _ends(rows + along))


def at_start(net: Net, settings: ExperimentConfig, source: Source, seed: int) -> list[float]:
    """The gradient norms of a net that has learnt nothing yet, for the first batch of training images."""
    config = net.config(settings, seed, "unused")
    shape = image_format_for(config, source)
    keras.utils.set_random_seed(seed)
    network = network_of(config, source, shape)
    return gradient_norms(network, *training_images(source, shape, config.batch_size))


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


def _plot(name: str, words: str, rows: Sequence[dict[str, Any]], colours: str) -> Plot:
    kinds = [make(8).kind for make in KINDS]
    values = sorted({row[colours] for row in rows})
    shown = values if len(values) <= len(COLOURS) else [values[i * (len(values) - 1) // 5] for i in range(6)]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 3, sharey=True), kinds, strict=True):
        for (own, depth, seed, step), norms in _grouped(rows).items():
            value = {"depth": depth, "step": step}[colours]
            if own == kind and value in shown:
                first = seed == min(row["seed"] for row in rows)
                label = {"depth": f"{depth} layers", "step": f"step {step:,}"}[colours] if first else None
                share = [i / (len(norms) - 1) for i in range(len(norms))]
                axes.plot(share, norms, color=COLOURS[shown.index(value)], lw=1.5 if first else 0.7, label=label)
        axes.set(title=kind, xlabel="From stem (0) to last block (1)", yscale="log")
        axes.grid(alpha=0.3)
        if kind == kinds[0]:
            axes.set(ylabel="Norm of the gradient of the loss")
            axes.legend()
    return Plot(name, words, figure, rows)
