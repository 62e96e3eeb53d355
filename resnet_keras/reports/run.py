"""`report.html`: a run on one page that needs nothing beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.config.command import changed_fields, command_of
from resnet_keras.config.recipes import RECIPES
from resnet_keras.config.run_folder import REPORT
from resnet_keras.config.train import TrainConfig, flat
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.reliability import Reliability
from resnet_keras.models.complexity import complexity
from resnet_keras.reports.confusion import class_views
from resnet_keras.reports.drawing import Line, draw_panel, draw_reliability
from resnet_keras.reports.html import spaced, write_page
from resnet_keras.reports.images import mistakes_of, samples_of
from resnet_keras.reports.plots import draw_curves, png_of


@dataclass(frozen=True)
class RunFacts:
    """What the report shows of a run beside its config and its figures."""

    network: keras.Model
    """From pixels, 0 to 255, to probabilities."""
    samples: tuple[np.ndarray, np.ndarray] | None
    """Images `[N, H, W, C]` and labels `[N, classes]` of a training batch."""
    images_per_epoch: int
    commit: str | None
    """Of the working folder's git repository."""
    files: Sequence[str] = ()
    """Of the measured split, where it is of files."""
    uncalibrated: Reliability | None = None
    """Before the temperature; None without calibration."""


def write_report(
    folder: Path,
    config: TrainConfig,
    result: Evaluation,
    metrics: dict[str, Any],
    rows: list[dict[str, Any]],
    facts: RunFacts,
) -> None:
    """Write the report of a run into its folder, with `curves.png` beside it."""
    if rows:
        (folder / "curves.png").write_bytes(png_of(draw_curves(rows)))
    split = metrics["split"]
    end = " Interrupted before its end." if metrics["interrupted"] else ""
    best = f", of which number {metrics['best_epoch']} was the best" if "best_epoch" in metrics else ""
    data = Path(config.data).name
    mistakes = mistakes_of(result, facts.network, facts.files)
    of_recipe = f"the recipe {config.name}" if config.name in RECIPES else "the defaults"
    write_page(
        folder / REPORT,
        "run.html",
        title=f"{config.name}: {config.model} on {data}",
        summary=f"{split.capitalize()} {_summary(result)}, loss {result.loss:.4f}, on {result.examples:,} {split} "
        f"images of {data}, after {metrics['epochs']} epoch{'' if metrics['epochs'] == 1 else 's'}{best}.{end}",
        figures=_figures(result, metrics, rows, facts),
        command=command_of(config),
        curves=_curves(rows, several=bool(result.several)) if rows else None,
        lines=[("training", 0, True), (rows[-1].get("split", "test"), 1, False)] if rows else [],
        split=f"{split} split",
        labels=result.labels,
        several=bool(result.several),
        **class_views(result),
        reliability=_reliability(result, facts.uncalibrated, metrics.get("calibration", {})),
        mistakes=mistakes,
        heated=any(one.heat for one in mistakes),
        samples=samples_of(facts.samples, result.labels, several=bool(result.several)),
        base=of_recipe,
        changed=_spaced(changed_fields(config)),
        configuration=_spaced(flat(config)),
        environment={
            "date": metrics["date"],
            **metrics["environment"],
            **({"git commit": facts.commit} if facts.commit else {}),
        },
    )


def _summary(result: Evaluation) -> str:
    if result.several:
        average = result.several.mean_average_precision
        return f"mean average precision {average:.2%}, accuracy {result.accuracy:.2%} of all decisions"
    return f"accuracy {result.accuracy:.2%}, top 5 {result.top5_accuracy:.2%}"


def _figures(
    result: Evaluation, metrics: dict[str, Any], rows: list[dict[str, Any]], facts: RunFacts
) -> dict[str, str]:
    """The figures at the head of the page."""
    cost = complexity(facts.network)
    figures = {f"{metrics['split'].capitalize()} accuracy": f"{result.accuracy:.2%}"}
    if result.several:
        figures = {"Mean average precision": f"{result.several.mean_average_precision:.2%}", **figures}
    elif len(result.labels) > 5:
        figures["Top 5"] = f"{result.top5_accuracy:.2%}"
    figures["Loss (nats)"] = f"{result.loss:.4f}"
    if result.ece is not None:
        figures["Calibration error"] = f"{result.ece:.2%}"
    if rows:
        seconds = [row["seconds"] for row in rows]
        figures["Time of the epochs"] = _duration(sum(seconds))
        if min(seconds) > 0:
            figures["Images/s, with evaluation"] = f"{facts.images_per_epoch / float(np.median(seconds)):,.0f}"
    figures["Parameters"] = f"{metrics['parameters']:,}"
    figures["Multiply-adds"] = f"{cost.macs / 1e9:.2f} G" if cost.macs >= 1e9 else f"{cost.macs / 1e6:.2f} M"
    return figures


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _curves(rows: list[dict[str, Any]], *, several: bool) -> list[str]:
    def line(name: str, colour: int, scale: float = 1, dashed: bool = False) -> Line:
        values = [(row["epoch"], row[name]) for row in rows]
        return Line([(x, None if y is None else y * scale) for x, y in values], colour, dashed)

    score = draw_panel("Accuracy (%)", [line("accuracy", 0, 100, True), line("val_accuracy", 1, 100)])
    if several:
        score = draw_panel("Mean average precision (%)", [line("val_mean_average_precision", 1, 100)])
    return [
        draw_panel("Loss (nats)", [line("loss", 0, dashed=True), line("val_loss", 1)]),
        score,
        draw_panel("Learning rate at the epoch's end", [line("learning_rate", 2)]),
    ]


def _reliability(result: Evaluation, before: Reliability | None, calibration: dict[str, Any]) -> dict[str, Any] | None:
    found = result.reliability
    if found is None:
        return None
    plots, calibrated = draw_reliability(found), ""
    if before is not None and calibration["temperature"] is not None:
        plots = [draw_reliability(before, ", before")[0], *draw_reliability(found, ", calibrated")]
        calibrated = (
            f" Before calibration the error was {before.ece:.2%}: the logits are divided by the temperature "
            f"{calibration['temperature']:.3f}, which was fitted on {calibration['images']:,} validation images. No "
            "prediction changes by it."
        )
    elif before is not None:
        calibrated = " It is not calibrated: all validation images are correct, so nothing says how sure to be."
    mean = float(found.confidence.mean())
    way = "more" if mean > result.accuracy else "less"
    return {
        "words": f"Expected calibration error {found.ece:.2%} over 15 bins (Guo et al. 2017). The network gives its "
        f"predictions {mean:.1%} on average, and {result.accuracy:.1%} of them are correct: it is {way} confident than "
        f"accurate by {abs(mean - result.accuracy) * 100:.1f} points. Bars below the dotted line are overconfident."
        + calibrated,
        "plots": plots,
    }


def _spaced(values: dict[str, Any]) -> dict[str, Any]:
    return {spaced(name): value for name, value in values.items()}
