"""`calibrate`: a run's temperature, fitted on its validation images and put into its network."""

import dataclasses
from typing import Any

import numpy as np

from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.inference.evaluate import Evaluator
from resnet_keras.inference.temperature import fit_temperature
from resnet_keras.models.preprocessing import card_layer
from resnet_keras.models.temperature import scale_logits
from resnet_keras.progress import progress
from resnet_keras.training.record import Record
from resnet_keras.training.setup import TrainingSetup


def calibrate(setup: TrainingSetup) -> float | None:
    """Divide the logits of a run's network by the temperature that fits its validation images best.

    They are taken as `predict` takes them: without the mirror images of `test_flip`.

    Returns:
        The temperature; None where every validation image is correct, and nothing says how confident to be.
    """
    batches = evaluation_batches(setup.source, setup.shape, setup.config.batch_size, setup.source.validation)
    logits = Evaluator(setup.trained, setup.source.labels, setup.strategy)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with progress("calibrating", len(setup.source.validation or ()), "images") as task:
        for _, labels, outputs in logits.outputs(batches):
            parts.append((outputs, labels.argmax(-1)))
            task.add(len(labels))
    temperature = fit_temperature(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    if temperature is not None:
        scale_logits(setup.network, 1 / temperature)
        layer = card_layer(setup.network)
        assert layer is not None
        layer.card = dataclasses.replace(layer.card, temperature=temperature)
    return temperature


def calibration_of(setup: TrainingSetup, record: Record, temperature: float | None) -> dict[str, Any]:
    """For `metrics.json`: the temperature, the images it was fitted on, and the measured split before and after."""
    before, after = record.uncalibrated, record.evaluation
    assert before is not None
    assert after is not None
    return {
        "temperature": temperature,
        "images": len(setup.source.validation or ()),
        "loss_before": before.loss,
        "ece_before": before.ece,
        "ece": after.ece,
    }


def calibration_words(metrics: dict[str, Any]) -> str:
    """What calibration did, in a line."""
    found = metrics["calibration"]
    if found["temperature"] is None:
        return f"not calibrated: all {found['images']:,} validation images are correct, so nothing says how sure to be"
    return (
        f"temperature {found['temperature']:.3f}, fitted on {found['images']:,} validation images: calibration error "
        f"on the {metrics['split']} split {found['ece_before']:.2%} before, {found['ece']:.2%} with it"
    )
