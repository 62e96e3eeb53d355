"""What a trained net does without one of its blocks, or with two of them swapped: Veit et al. 2016, section 4."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_keras.data.format import image_format
from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.data.splits import Source
from resnet_keras.experiments.anatomy import chain, error_of, lesionable, swapped, without
from resnet_keras.experiments.curves import MARKERS, means_table
from resnet_keras.experiments.experiment_config import ExperimentConfig, plain, residual
from resnet_keras.experiments.finding import Finding, Plot
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.reports.intervals import interval_of, paired_difference
from resnet_keras.reports.plots import COLOURS

KINDS = ("plain", "residual")
REMOVED, SWAPPED, SEVERAL = "removed", "swapped with the next", "several removed"
DRAWS = 5
"""Times that a number of blocks is drawn at random to be left out."""


def lesion(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Train plain and residual nets, and see the test error without each block."""
    runs, cases = [], []
    for run in train_all(settings.nets(plain, residual), settings, source, folder):
        model = run.model()
        batches = list(evaluation_batches(source, image_format(model), 512))
        cases += operate(model, batches, run)
        runs.append(run)
    title = f"Lesions on {settings.data}: nets without some of their blocks"
    return Finding(title, tuple(conclusions(cases)), (_plot(cases),), cases, means_table(runs))


def operate(model: Any, batches: list[tuple[Any, Any]], run: Trained) -> list[dict[str, Any]]:
    """The test error of a net whole, without each block that keeps the shape, with neighbours swapped, and without
    several."""
    layers, names = chain(model), lesionable(model)
    who = {"kind": run.kind, "depth": run.depth, "seed": run.seed}

    def case(lesion: str, block: str, count: int, order: Sequence[Any]) -> dict[str, Any]:
        return {**who, "lesion": lesion, "block": block, "blocks": count, "test_error": error_of(order, batches)}

    cases = [case("none", "", 0, layers)]
    cases += [case(REMOVED, name, 1, without(layers, [name])) for name in names]
    for one, other in itertools.pairwise(names):
        if one.split("_")[0] == other.split("_")[0]:  # of one stage: the shapes agree
            cases.append(case(SWAPPED, one, 2, swapped(layers, one, other)))
    random = np.random.default_rng(run.seed)
    for count in (n for n in (2, 3, 5, 8, 12) if n < len(names)):
        for _ in range(DRAWS):
            chosen = random.choice(names, count, replace=False)
            cases.append(case(SEVERAL, " ".join(chosen), count, without(layers, chosen)))
    return cases


def conclusions(cases: Sequence[dict[str, Any]]) -> list[str]:
    """What the lesions show, of the deepest nets."""
    deep = max(case["depth"] for case in cases)

    def errors(kind: str, lesion: str) -> list[float]:
        return [100 * c["test_error"] for c in cases if (c["kind"], c["depth"], c["lesion"]) == (kind, deep, lesion)]

    sentences = []
    for kind in KINDS:
        alone, swaps = errors(kind, REMOVED), errors(kind, SWAPPED)
        worst = max((c for c in cases if (c["kind"], c["depth"], c["lesion"]) == (kind, deep, REMOVED)), key=_error)
        exchanged = f", with two neighbours swapped {statistics.median(swaps):.1f} %" if swaps else ""
        whole = statistics.fmean(errors(kind, "none"))
        sentences.append(
            f"The whole {kind} net of {deep} layers has a test error of {whole:.1f} %, "
            f"without one of its blocks {statistics.median(alone):.1f} % in the median and {max(alone):.1f} % at worst "
            f"({worst['block']})"
            f"{exchanged}."
        )
    costs = {kind: _costs(cases, kind, deep) for kind in KINDS}
    rises, apart = {kind: interval_of(own) for kind, own in costs.items()}, paired_difference(*costs.values())
    seeds = len(costs[KINDS[0]])
    found = rises["plain"].mean > 3 * max(rises["residual"].mean, 1.0) and (seeds == 1 or apart.low > 0)
    how = f"mean over {seeds} seeds, 95 % interval" if seeds > 1 else "one seed"
    sentences.append(
        f"A block less costs, in the median of a net's blocks ({how}), the plain net {rises['plain'].text('.1f')} "
        f"points and the residual net {rises['residual'].text('.1f')}: "
        + (
            "as Veit et al. found, the plain net needs every block and the residual net few of its own."
            if found
            else "here the two do not differ as they do in the paper."
        )
    )
    return sentences


def _costs(cases: Sequence[dict[str, Any]], kind: str, depth: int) -> list[float]:
    """Points of test error that the median block costs a net, seed by seed."""
    costs = []
    for seed in sorted({case["seed"] for case in cases}):
        own = [case for case in cases if (case["kind"], case["depth"], case["seed"]) == (kind, depth, seed)]
        whole, alone = ([100 * _error(c) for c in own if c["lesion"] == lesion] for lesion in ("none", REMOVED))
        costs.append(statistics.median(alone) - whole[0])
    return costs


def _error(case: dict[str, Any]) -> float:
    return case["test_error"]


def _plot(cases: Sequence[dict[str, Any]]) -> Plot:
    deep = max(case["depth"] for case in cases)
    deepest = [case for case in cases if case["depth"] == deep]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    all_axes = figure.subplots(1, 3, sharey=True)
    titles = {REMOVED: "One block left out", SWAPPED: "Two neighbours swapped", SEVERAL: "Several left out at random"}
    for axes, (lesion, title) in zip(all_axes, titles.items(), strict=True):
        several = lesion == SEVERAL
        places = list(dict.fromkeys(case["block"] for case in deepest if case["lesion"] == lesion))
        for i, kind in enumerate(KINDS):
            mine = [case for case in deepest if case["kind"] == kind]
            done = [case for case in mine if case["lesion"] == lesion]
            across = [case["blocks"] if several else places.index(case["block"]) for case in done]
            errors = [100 * case["test_error"] for case in done]
            axes.plot(across, errors, MARKERS[i], color=COLOURS[i], alpha=0.7, label=kind)
            whole = statistics.fmean(100 * case["test_error"] for case in mine if case["lesion"] == "none")
            axes.axhline(whole, color=COLOURS[i], lw=1, ls=":", label=f"{kind}, whole")
        if several:
            axes.set(xlabel="Blocks left out")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            stride = max(1, len(places) // 8)
            axes.set_xticks(range(0, len(places), stride), places[::stride], rotation=60, ha="right", fontsize=8)
        axes.set(title=title)
        axes.grid(alpha=0.3)
    all_axes[0].set(ylabel="Test error (%)", ylim=(0, 100))
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return Plot("lesions", f"Test error of trained nets of {deep} layers after a lesion", figure, cases)
