"""Where the layer norm is: behind each sum, on the shortcut's way, or in the branch; without warm-up and with.

Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", Figures 1 and 4, and Theorem 1: at the
start the gradient of the last block's weights does not depend on the number L of layers with post-norm, and falls as
1/sqrt(L) with pre-norm.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.data.splits import Source
from resnet_keras.experiments.anatomy import projection_gradient_norms
from resnet_keras.experiments.curves import as_rows, grouped, means_table
from resnet_keras.experiments.experiment_config import ExperimentConfig, post_norm, pre_norm, warmed_up
from resnet_keras.experiments.finding import Finding, Plot
from resnet_keras.experiments.gradients import norms_plot, rows_at_start
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.reports.intervals import Interval, paired_ratio
from resnet_keras.reports.plots import COLOURS

KINDS = (post_norm, pre_norm)
POST, PRE = (make(1).kind for make in KINDS)
WARM = {make(1).kind: warmed_up(make(1)).kind for make in KINDS}
Rows = Sequence[dict[str, Any]]
IMAGES = 512
"""Over which the gradient at the start is taken: of a batch it would be mostly noise."""


def norm_placement(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Measure post-norm and pre-norm nets as they are made, and train them without warm-up and with."""
    cold = settings.nets(*KINDS)
    rows = rows_at_start(cold, settings, source, projection_gradient_norms, IMAGES)
    nets = [net for one in cold for net in (one, warmed_up(one))]
    runs = list(train_all(nets, settings, source, folder, pages=False))
    plots = (
        _plot(runs),
        norms_plot(
            "norm-placement-gradients",
            "Gradient of the last kernel of each block at the start, by depth",
            rows,
            "depth",
            ("From first block (0) to last (1)", "Norm of the gradient of the block's last kernel"),
            "linear",
        ),
    )
    title = f"Layer norm behind the sum or in the branch, on {settings.data}"
    sentences = (*of_the_start(rows), *of_the_training(runs, len(source.labels)))
    warmups = sorted({net.config(settings, 0, "unused").schedule.warmup for net in nets})
    protocol = {"warmup": " and ".join(f"{warmup:g}" for warmup in warmups)}
    return Finding(title, sentences, plots, as_rows(runs), means_table(runs), protocol)


def of_the_start(rows: Rows) -> list[str]:
    """What the gradients at the start show, beside what the theorem says."""
    norms: dict[tuple[str, int], list[list[float]]] = {}
    for row in rows:
        of_net = norms.setdefault((row["kind"], row["depth"]), [])
        if row["block"] == 0:
            of_net.append([])
        of_net[-1].append(row["norm"])
    depths = sorted({depth for _, depth in norms})
    shallow, deep = depths[0], depths[-1]
    last = {key: [own[-1] for own in of_net] for key, of_net in norms.items()}
    seeds = len(last[POST, deep])
    how = f"{seeds} seeds, 95 % intervals" if seeds > 1 else "one seed"
    beside = {
        kind: paired_ratio(last[kind, deep], [own[0] for own in norms[kind, deep]]).text(".2f") for kind in (POST, PRE)
    }
    sentences = [
        f"At the start of {deep} layers the gradient of the last block's last kernel has {beside[POST]} times the "
        f"length of the first block's with {POST}, and {beside[PRE]} times with {PRE} ({how})."
    ]
    if len(depths) == 1:
        return sentences
    falls = {kind: paired_ratio(last[kind, deep], last[kind, shallow]) for kind in (POST, PRE)}
    said = (
        f"From {shallow} to {deep} layers that of the last block goes to {falls[POST].text('.2f')} times with {POST}, "
        f"where Xiong et al. derive 1, and to {falls[PRE].text('.2f')} times with {PRE}, where they derive "
        f"{math.sqrt(shallow / deep):.2f}: "
    )
    if seeds == 1:
        verdict = "one seed gives no interval."
    elif falls[PRE].high < min(1, falls[POST].low):
        verdict = f"near the output, depth makes the gradient smaller with {PRE} and not so with {POST}."
    elif falls[POST].high < min(1, falls[PRE].low):
        verdict = f"here depth makes it smaller with {POST}, which is not what they derive."
    else:
        verdict = f"{seeds} seeds do not tell the two apart."
    return [*sentences, said + verdict]


def of_the_training(runs: Sequence[Trained], classes: int) -> list[str]:
    """Sentences on the training losses at the end, and whether post-norm is the one that needs the warm-up."""
    by = grouped(runs, "kind", "depth")
    depths = sorted({run.depth for run in runs})
    sentences = []
    for depth in depths:
        means = {kind: statistics.fmean(run.train_loss for run in by[kind, depth]) for kind in (*WARM, *WARM.values())}
        losses = "; ".join(f"{kind} {means[kind]:.3g} and {means[WARM[kind]]:.3g}" for kind in WARM)
        without, with_it = _times_of_pre(by, depth)
        sentences.append(
            f"At {depth} layers the training loss after {by[POST, depth][0].steps:,} steps is, without warm-up and "
            f"with, {losses} nats, where guessing has {math.log(classes):.3g}: {POST} has {without.text('.3g')} times "
            f"that of {PRE} without warm-up, and {with_it.text('.3g')} times with."
        )
    return [*sentences, _verdict(*_times_of_pre(by, depths[-1]), depths[-1], len(by[POST, depths[-1]]))]


def _times_of_pre(by: dict[tuple, list[Trained]], depth: int) -> tuple[Interval, Interval]:
    """How many times the training loss of pre-norm post-norm has at a depth, without warm-up and with."""

    def times(post: str, pre: str) -> Interval:
        return paired_ratio(*([max(run.train_loss, 1e-30) for run in by[kind, depth]] for kind in (post, pre)))

    return times(POST, PRE), times(WARM[POST], WARM[PRE])


def _verdict(without: Interval, with_it: Interval, depth: int, seeds: int) -> str:
    """Drawn from the intervals of two ratios: post-norm's loss to pre-norm's, without warm-up and with."""
    if seeds == 1:
        return "One seed gives no interval: this is what these nets did, and no verdict on warm-up."
    if without.high < 1:
        return f"At {depth} layers {POST} trains better than {PRE} without warm-up: not what Xiong et al. found."
    if without.low <= 1:
        return f"At {depth} layers it was not shown that {POST} trains worse than {PRE} without warm-up."
    said = f"At {depth} layers {POST} trains worse than {PRE} without warm-up"
    if with_it.low > 1:
        return f"{said}, and with it too."
    if with_it.high < 1:
        return f"{said}, and better with it."
    return f"{said}; with it {seeds} seeds do not tell the two apart: it is {POST} that needs it."


def _plot(runs: Sequence[Trained]) -> Plot:
    """The loss of the training batches by step: a panel a depth, dashed without warm-up, a band from seed to seed."""
    depths = sorted({run.depth for run in runs})
    figure = Figure(figsize=(4.6 * max(2, len(depths)), 4.2), layout="constrained")
    all_axes = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    numbers = []
    for axes, depth in zip(all_axes, depths, strict=True):
        for (kind,), same in grouped([run for run in runs if run.depth == depth], "kind").items():
            place = [kind.startswith(placement) for placement in (POST, PRE)].index(True)
            steps = [round(row["epoch"] * same[0].steps / len(same[0].epochs)) for row in same[0].epochs]
            losses = np.array([[row["loss"] for row in run.epochs] for run in same])
            style = "-" if kind in WARM.values() else "--"
            axes.plot(steps, losses.mean(0), style, color=COLOURS[place], lw=2, label=kind)
            if len(same) > 1:
                axes.fill_between(steps, losses.min(0), losses.max(0), color=COLOURS[place], alpha=0.12, lw=0)
            for run, own in zip(same, losses, strict=True):
                who = {"kind": kind, "depth": depth, "seed": run.seed}
                numbers += [{**who, "step": step, "loss": float(loss)} for step, loss in zip(steps, own, strict=True)]
        axes.set(title=f"{depth} layers", xlabel="Step")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    all_axes[0].set(ylabel="Loss of the training batches (nats)", ylim=(0, None))
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    words = "Training loss by step, layer norm behind the sum or in the branch; bands are seeds"
    return Plot("norm-placement", words, figure, numbers)
