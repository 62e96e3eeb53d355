"""Degradation: deeper plain nets have more error on the images they train on, residual nets do not.

He et al. 2015, section 1, Figure 1, and section 4.2, Figure 6.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from resnet_keras.data.splits import Source
from resnet_keras.experiments.curves import as_rows, error_curves, grouped, loss_by_depth, means_table
from resnet_keras.experiments.experiment_config import ExperimentConfig, plain, residual
from resnet_keras.experiments.finding import Finding
from resnet_keras.experiments.grid import Trained, train_all

FAR, MARGIN = 3.0, 0.1
"""A training loss is far above another one when it is so many times as high and so many nats higher."""


def degradation(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Train plain and residual nets of equal depth, width and recipe."""
    nets = settings.nets(plain, residual)
    runs = sorted(train_all(nets, settings, source, folder), key=lambda run: (run.kind, run.depth, run.seed))
    words = "Error by step, plain and residual nets: training (thin) and test (thick); bands are seeds"
    plots = (
        error_curves("degradation", words, runs, panels="kind", colours="depth"),
        loss_by_depth("training-loss", "Training loss at the end, by depth", runs),
    )
    title = f"Degradation on {settings.data}: plain against residual nets"
    return Finding(title, tuple(conclusions(runs, settings.data)), plots, as_rows(runs), means_table(runs))


def conclusions(runs: Sequence[Trained], data: str) -> list[str]:
    """What the runs show, in words; whether the effect was seen or not."""
    by = grouped(runs, "kind", "depth")
    depths = sorted({run.depth for run in runs})
    shallow, deep = depths[0], depths[-1]
    mean = {key: statistics.fmean(run.train_loss for run in same) for key, same in by.items()}
    seeds = len(by["plain", deep])
    behind = _far_above(by["plain", deep], by["residual", deep])
    sentences = [
        f"On {data}, after {by['plain', deep][0].steps:,} steps, the plain net of {deep} layers has a training loss of "
        f"{mean['plain', deep]:.3g} nats and its residual twin {mean['residual', deep]:.3g} "
        f"({_means(seeds)}); in {behind} of {_seeds(seeds)} the plain net's is far above its twin's ({FAR:g} times as "
        f"high, and {MARGIN:g} nats)."
    ]
    if len(depths) > 1:
        worse = {kind: _far_above(by[kind, deep], by[kind, shallow]) for kind in ("plain", "residual")}
        losses = {kind: ", ".join(f"{mean[kind, depth]:.3g}" for depth in depths) for kind in worse}
        sentences.append(
            f"From {shallow} to {deep} layers the training loss of the plain nets goes {losses['plain']}: the deepest "
            f"is far above the shallowest in {worse['plain']} of {_seeds(seeds)}. That of the residual nets goes "
            f"{losses['residual']}: far above in {worse['residual']} of {seeds}."
        )
        if (worse["plain"], worse["residual"], behind) == (seeds, 0, seeds):
            verdict = "Degradation was seen: more layers fit the training images worse, and shortcuts undo it."
        elif not worse["plain"]:
            verdict = "Degradation was not seen: the deepest plain net learns its training images as the shallowest."
        else:
            verdict = (
                f"Degradation was seen in part: of {_seeds(seeds)}, deeper is worse in {worse['plain']} for plain nets "
                f"and in {worse['residual']} for residual ones."
            )
        sentences.append(verdict)
    return sentences


def _far_above(runs: Sequence[Trained], others: Sequence[Trained]) -> int:
    """In how many seeds the first training loss is far above the other."""
    losses = [(run.train_loss, other.train_loss) for run, other in zip(runs, others, strict=True)]
    return sum(one > FAR * other and one > other + MARGIN for one, other in losses)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _means(seeds: int) -> str:
    return f"means over {seeds} seeds" if seeds > 1 else "one seed"
