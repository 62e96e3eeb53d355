"""Degradation: deeper plain nets have more error on the pictures they train on, residual nets do not.

He et al. 2015, section 1, Figure 1, and section 4.2, Figure 6.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

from resnet_keras.data.splits import Source
from resnet_keras.experiments.curves import as_rows, error_curves, grouped, loss_by_depth, means_table
from resnet_keras.experiments.finding import Finding
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.experiments.settings import Settings, plain, residual

FAR = 3.0
"""How many times the other's training loss counts as far behind."""


def degradation(settings: Settings, source: Source, folder: Path) -> Finding:
    """Train plain and residual nets of equal depth, width and recipe."""
    nets = [make(depth) for depth in sorted(settings.depths) for make in (plain, residual)]
    runs = sorted(train_all(nets, settings, source, folder), key=lambda run: (run.kind, run.depth, run.seed))
    words = "Error by step, plain and residual nets: training (thin) and test (thick); bands are seeds"
    pictures = (
        error_curves("degradation", words, runs, panels="kind", colours="depth"),
        loss_by_depth("training-loss", "Training loss at the end, by depth", runs),
    )
    title = f"Degradation on {settings.data}: plain against residual nets"
    return Finding(title, tuple(told(runs, settings.data)), pictures, as_rows(runs), means_table(runs))


def told(runs: Sequence[Trained], data: str) -> list[str]:
    """What the runs say, in words; whether the effect was seen or not."""
    by = grouped(runs, "kind", "depth")
    depths = sorted({run.depth for run in runs})
    shallow, deep = depths[0], depths[-1]
    mean = {key: statistics.fmean(run.train_loss for run in same) for key, same in by.items()}
    seeds = len(by["plain", deep])
    behind = sum(
        mine.train_loss > FAR * twin.train_loss
        for mine, twin in zip(by["plain", deep], by["residual", deep], strict=True)
    )
    sentences = [
        f"On {data}, after {by['plain', deep][0].steps:,} steps, the plain net of {deep} layers has a training loss of "
        f"{mean['plain', deep]:.3g} nats and its residual twin {mean['residual', deep]:.3g} "
        f"({_means(seeds)}); in {behind} of {_seeds(seeds)} the plain net's is more than {FAR:g} times its twin's."
    ]
    if len(depths) > 1:
        worse = {
            kind: sum(
                more.train_loss > less.train_loss for more, less in zip(by[kind, deep], by[kind, shallow], strict=True)
            )
            for kind in ("plain", "residual")
        }
        losses = {kind: ", ".join(f"{mean[kind, depth]:.3g}" for depth in depths) for kind in worse}
        sentences.append(
            f"From {shallow} to {deep} layers the training loss of the plain nets goes {losses['plain']}: the deepest "
            f"is worse than the shallowest in {worse['plain']} of {_seeds(seeds)}. That of the residual nets goes "
            f"{losses['residual']}: worse in {worse['residual']} of {seeds}."
        )
        if worse["plain"] == seeds and behind == seeds:
            verdict = "Degradation was seen: more layers fit the training pictures worse, and shortcuts undo it."
        elif worse["plain"] or behind:
            verdict = "Degradation was seen in part: not every seed agrees."
        else:
            verdict = "Degradation was not seen: at these depths the plain nets learn their training pictures as well."
        sentences.append(verdict)
    return sentences


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _means(seeds: int) -> str:
    return f"means over {seeds} seeds" if seeds > 1 else "one seed"
