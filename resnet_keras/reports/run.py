"""`report.html`: a run on one page that needs nothing beside it."""

from pathlib import Path
from typing import Any

from resnet_keras.config.run_folder import REPORT
from resnet_keras.config.train import TrainConfig, flat
from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.reports.html import Cell, Image, image_of, write_page
from resnet_keras.reports.plots import LARGEST_CONFUSION, draw_confusion, draw_curves, png_of


def write_report(
    folder: Path, config: TrainConfig, result: Evaluation, metrics: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """Write the report of a run into its folder, with `curves.png` beside it."""
    curves = None
    if rows:
        curves = Image(png_of(draw_curves(rows)), "Loss, accuracy and learning rate by epoch")
        (folder / "curves.png").write_bytes(curves.png)
    drawn = len(result.labels) <= LARGEST_CONFUSION
    end = " Interrupted before its end." if metrics["interrupted"] else ""
    best = f", of which number {metrics['best_epoch']} was the best" if "best_epoch" in metrics else ""
    write_page(
        folder / REPORT,
        "run.html",
        title=f"{config.name}: {config.model} on {config.data}",
        summary=f"{metrics['split'].capitalize()} accuracy {result.accuracy:.2%}, top 5 {result.top5_accuracy:.2%}, "
        f"loss {result.loss:.4f}, on {result.examples:,} {metrics['split']} images of {config.data}, after "
        f"{metrics['epochs']} epochs{best}.{end}",
        curves=curves,
        split=f"{metrics['split']} split",
        confusion=image_of(draw_confusion(result), "Confusion matrix") if drawn else None,
        classes={"head": ["Class", "Images", "Recall", "Precision"], "rows": list(map(_class_row, result.per_class))},
        configuration=flat(config),
        environment={**metrics["environment"], "seconds": round(metrics["seconds"], 1)},
    )


def _class_row(row: dict[str, Any]) -> list[Cell]:
    shares = [row["recall"], row["precision"]]
    cells = [Cell(_percent(share), -1.0 if share is None else share) for share in shares]
    return [Cell(row["label"]), Cell(str(row["examples"]), row["examples"]), *cells]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
