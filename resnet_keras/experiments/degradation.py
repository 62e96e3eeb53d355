"""Degradation: deeper plain nets have more error on the images they train on, residual nets do not.

He et al. 2015, section 1, Figure 1, and section 4.2, Figure 6.
"""

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_keras.data.splits import Source
from resnet_keras.experiments.curves import as_rows, error_curves, grouped, loss_by_depth, means_table
from resnet_keras.experiments.experiment_config import ExperimentConfig, plain, residual
from resnet_keras.experiments.finding import Finding
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.reports.intervals import Interval, paired_ratio


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
    """What the runs show after their steps, in words; whether the effect was seen or not.

    Losses are compared by their ratios, seed by seed, at the end and after every epoch: no difference in nats says how
    far apart two losses are that both fall towards zero, and a ratio can be seen however long the nets train.
    """
    by = grouped(runs, "kind", "depth")
    depths = sorted({run.depth for run in runs})
    shallow, deep = depths[0], depths[-1]
    mean = {key: statistics.fmean(run.train_loss for run in same) for key, same in by.items()}
    steps, seeds = by["plain", deep][0].steps, len(by["plain", deep])
    twins = _loss_ratio(by["plain", deep], by["residual", deep])
    sentences = [
        f"On {data}, after {steps:,} steps, the plain net of {deep} layers has {_times(twins)} times the training "
        f"loss of its residual twin ({mean['plain', deep]:.3g} and {mean['residual', deep]:.3g} nats; "
        f"{_of_seeds(seeds)}). {_epochs_above(by['plain', deep], by['residual', deep])}"
    ]
    if len(depths) == 1:
        return sentences
    worse = {kind: _loss_ratio(by[kind, deep], by[kind, shallow]) for kind in ("plain", "residual")}
    losses = {kind: ", ".join(f"{mean[kind, depth]:.3g}" for depth in depths) for kind in worse}
    sentences.append(
        f"From {shallow} to {deep} layers the training loss of the plain nets goes {losses['plain']}: the deepest has "
        f"{_times(worse['plain'])} times that of the shallowest. "
        f"{_epochs_above(by['plain', deep], by['plain', shallow])} That of the residual nets goes "
        f"{losses['residual']}: {_times(worse['residual'])} times. "
        f"{_epochs_above(by['residual', deep], by['residual', shallow])}"
    )
    return [*sentences, _verdict(steps, seeds, twins, worse["plain"], worse["residual"])]


def _verdict(steps: int, seeds: int, twins: Interval, plain_worse: Interval, residual_worse: Interval) -> str:
    """Drawn from the intervals of three ratios: plain to residual, and the deepest to the shallowest of each."""
    after = f"after {steps:,} steps"
    if seeds == 1:
        return f"One seed gives no interval: this is what these nets did {after}, and no verdict on plain nets."
    if plain_worse.low > 1 and twins.low > 1:
        if residual_worse.low <= 1:
            undone = "shortcuts undo it"
        elif residual_worse.high < plain_worse.low:
            undone = "shortcuts leave less of it"
        else:
            undone = "shortcuts do not undo it"
        return f"Degradation was seen {after}: more layers fit the training images worse, and {undone}."
    if plain_worse.low > 1:
        return (
            f"Degradation was seen in part {after}: more layers fit worse, residual twins were not shown to fit better."
        )
    if plain_worse.high < 1:
        return f"Degradation was not seen {after}: the deepest plain net fits its training images better."
    return f"Degradation was not shown {after}: the interval of the plain nets' ratio has 1 in it."


def _loss_ratio(runs: Sequence[Trained], others: Sequence[Trained]) -> Interval:
    """How many times the training loss of others the first ones have at the end."""
    least = sys.float_info.min
    return paired_ratio([max(r.train_loss, least) for r in runs], [max(o.train_loss, least) for o in others])


def _times(ratio: Interval) -> str:
    """A ratio with its interval: 492 (64.7 to 3,730)."""
    mean, low, high = (f"{v:,.0f}" if 1000 <= v < 1e6 else f"{v:.3g}" for v in (ratio.mean, ratio.low, ratio.high))
    return mean if math.isinf(ratio.high) else f"{mean} ({low} to {high})"


def _epochs_above(runs: Sequence[Trained], others: Sequence[Trained]) -> str:
    """After how many epochs the loss of the training batches was above that of others in every seed."""
    above = [
        all(run.epochs[i]["loss"] > other.epochs[i]["loss"] for run, other in zip(runs, others, strict=True))
        for i in range(min(len(run.epochs) for run in (*runs, *others)))
    ]
    seeds = "in every seed" if len(runs) > 1 else "in this seed"
    return f"Over the training batches it was higher {seeds} in {sum(above)} of {len(above)} epochs."


def _of_seeds(count: int) -> str:
    return f"{count} seeds, paired, with 95 % intervals" if count > 1 else "one seed"
