"""Kinds of net compared by their training: shortcuts A, B and C; activation after or before; 1,202 layers."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from resnet_keras.data.splits import Source
from resnet_keras.experiments.curves import as_rows, error_curves, grouped, means_table, spread
from resnet_keras.experiments.finding import Finding
from resnet_keras.experiments.grid import Trained, train_all
from resnet_keras.experiments.settings import Net, Settings, from_identity, plain


def shortcuts(settings: Settings, source: Source, folder: Path) -> Finding:
    """Shortcuts A, B and C beside none: He et al. 2015, section 4.1, Table 3."""

    def nets(depth: int) -> list[Net]:
        return [plain(depth), *(Net(f"shortcut {letter}", depth, {"shortcut": letter}) for letter in "ABC")]

    runs, sentences = _compared(
        [net for depth in sorted(settings.depths) for net in nets(depth)], settings, source, folder
    )
    title = f"Shortcuts on {settings.data}: zero-padded (A), projected where shapes change (B), projected (C)"
    return _finding(title, "shortcuts", runs, sentences)


def preactivation(settings: Settings, source: Source, folder: Path) -> Finding:
    """Activation after the sum or before the branch: He et al. 2016, section 4, Tables 2 and 3, Figure 6."""

    def nets(depth: int) -> list[Net]:
        after = Net("post-activation", depth, {"shortcut": "B"})
        return [after, Net("pre-activation", depth, {"shortcut": "B", "preactivation": True})]

    runs, sentences = _compared(
        [net for depth in sorted(settings.depths) for net in nets(depth)], settings, source, folder
    )
    title = f"Post-activation and pre-activation on {settings.data}"
    return _finding(title, "preactivation", runs, sentences)


def thousand_layers(settings: Settings, source: Source, folder: Path) -> Finding:
    """Very deep residual nets that start as the identity: He et al. 2015, section 4.2, "Exploring over 1000 layers"."""
    nets = [from_identity(depth) for depth in sorted(settings.depths)]
    runs = list(train_all(nets, settings, source, folder))
    sentences = []
    for (depth,), same in grouped(runs, "depth").items():
        before = statistics.fmean(run.epochs[0]["loss"] for run in same)
        after = statistics.fmean(run.train_loss for run in same)
        sentences.append(
            f"The net of {depth:,} layers has a training loss of {before:.3g} over its first epoch and of {after:.3g} "
            f"after {same[0].steps:,} steps, and a test error of {spread(_errors(same))} %: "
            + ("it trains." if after < before / 2 else "it does not train in so few steps.")
        )
    return _finding(f"Residual nets of great depth on {settings.data}", "thousand-layers", runs, sentences)


def _compared(nets: Sequence[Net], settings: Settings, source: Source, folder: Path) -> tuple[list[Trained], list[str]]:
    runs = list(train_all(nets, settings, source, folder))
    sentences = []
    for (depth,), same in grouped(runs, "depth").items():
        kinds = grouped(same, "kind")
        losses = {kind: statistics.fmean(run.train_loss for run in own) for (kind,), own in kinds.items()}
        errors = ", ".join(f"{kind} {spread(_errors(own))} %" for (kind,), own in kinds.items())
        best = min(losses, key=lambda kind: losses[kind])
        sentences.append(
            f"At {depth} layers, test error by kind: {errors}. The least training loss, {losses[best]:.3g}, is that of "
            f"{best}; the others: {', '.join(f'{k} {v:.3g}' for k, v in losses.items() if k != best)}."
        )
    return runs, sentences


def _errors(runs: Sequence[Trained]) -> list[float]:
    return [100 * (1 - run.test_accuracy) for run in runs]


def _finding(title: str, name: str, runs: Sequence[Trained], sentences: Sequence[str]) -> Finding:
    words = "Error by step: training (thin) and test (thick); bands are seeds"
    picture = error_curves(name, words, runs, panels="depth", colours="kind")
    return Finding(title, tuple(sentences), (picture,), as_rows(runs), means_table(runs))
