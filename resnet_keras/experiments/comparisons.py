"""Kinds of net compared by their training: shortcuts A, B and C; activation after or before; 1,202 layers."""

import itertools
import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resnet_keras.data.splits import Source
from resnet_keras.experiments.curves import as_rows, error_curves, grouped, means_table, test_errors
from resnet_keras.experiments.experiment_config import ExperimentConfig, Net, from_identity, plain
from resnet_keras.experiments.finding import Finding
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.reports.intervals import interval_of, paired_difference

TRAINS = 0.5
"""A net trains when its loss comes below this share of that of guessing, the logarithm of the number of classes."""


def shortcuts(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Shortcuts A, B and C beside none: He et al. 2015, section 4.1, Table 3."""
    makes = [partial(_shortcut, letter) for letter in "ABC"]
    runs = list(train_all(settings.nets(plain, *makes), settings, source, folder))
    title = f"Shortcuts on {settings.data}: zero-padded (A), projected where shapes change (B), projected (C)"
    return _finding(title, "shortcuts", runs, compared(runs))


def _shortcut(letter: str, depth: int) -> Net:
    return Net(f"shortcut {letter}", depth, {"shortcut": letter})


def preactivation(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Activation after the sum or before the branch: He et al. 2016, section 4, Tables 2 and 3, Figure 6."""
    runs = list(train_all(settings.nets(_after, _before), settings, source, folder))
    return _finding(f"Post-activation and pre-activation on {settings.data}", "preactivation", runs, compared(runs))


def _after(depth: int) -> Net:
    return Net("post-activation", depth, {"shortcut": "B"})


def _before(depth: int) -> Net:
    return Net("pre-activation", depth, {"shortcut": "B", "preactivation": True})


def thousand_layers(settings: ExperimentConfig, source: Source, folder: Path) -> Finding:
    """Very deep residual nets (He et al. 2015, section 4.2) that start as the identity (Goyal et al. 2017)."""
    runs = list(train_all(settings.nets(from_identity), settings, source, folder))
    title = f"Residual nets of great depth on {settings.data}"
    return _finding(title, "thousand-layers", runs, trained_or_not(runs, len(source.labels)))


def trained_or_not(runs: Sequence[Trained], classes: int) -> list[str]:
    """Whether each net trains, in words."""
    guessing = math.log(classes)
    sentences = []
    for (depth,), same in grouped(runs, "depth").items():
        loss = statistics.fmean(run.train_loss for run in same)
        sentences.append(
            f"The net of {depth:,} layers has a training loss of {loss:.3g} nats after {same[0].steps:,} steps, where "
            f"guessing has {guessing:.3g}, and a test error of {interval_of(test_errors(same)).text()} %: "
            + ("it trains." if loss < TRAINS * guessing else "it does not train in so few steps.")
        )
    return sentences


def compared(runs: Sequence[Trained]) -> list[str]:
    """The kinds beside one another at each depth, in words: means over seeds and differences, with their intervals."""
    sentences = []
    for (depth,), same in grouped(runs, "depth").items():
        kinds = {kind: own for (kind,), own in grouped(same, "kind").items()}
        seeds = len(next(iter(kinds.values())))
        losses = {kind: statistics.fmean(run.train_loss for run in own) for kind, own in kinds.items()}
        errors = ", ".join(f"{kind} {interval_of(test_errors(own)).text()} %" for kind, own in kinds.items())
        in_order = ", ".join(f"{kind} {losses[kind]:.3g}" for kind in sorted(losses, key=lambda kind: losses[kind]))
        how = f"means over {seeds} seeds with 95 % intervals" if seeds > 1 else "one seed"
        sentences.append(
            f"At {depth} layers, test error by kind ({how}): {errors}. Training loss, least first: {in_order}."
        )
        if seeds > 1:
            sentences.append(f"{_differences(kinds)} The intervals are of Student's t, paired by seed.")
    return sentences


def _differences(kinds: dict[str, list[Trained]]) -> str:
    """Each kind beside the one before it."""
    said = []
    for one, other in itertools.pairwise(kinds):
        apart = paired_difference(*(test_errors(sorted(kinds[k], key=lambda run: run.seed)) for k in (other, one)))
        told = "told apart" if apart.excludes(0) else f"{len(kinds[one])} seeds do not tell them apart"
        said.append(f"{other} minus {one} is {apart.text('+.2f')} points: {told}.")
    return " ".join(said)


def _finding(title: str, name: str, runs: Sequence[Trained], sentences: Sequence[str]) -> Finding:
    words = "Error by step: training (thin) and test (thick); bands are seeds"
    plot = error_curves(name, words, runs, panels="depth", colours="kind")
    return Finding(title, tuple(sentences), (plot,), as_rows(runs), means_table(runs))
