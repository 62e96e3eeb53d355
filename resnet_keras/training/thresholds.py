"""The thresholds of several labels an image, chosen on a run's validation images."""

import dataclasses

from resnet_keras.inference.evaluate import Evaluation
from resnet_keras.inference.labels import best_threshold
from resnet_keras.models.preprocessing import card_layer
from resnet_keras.training.setup import TrainingSetup


def choose_thresholds(setup: TrainingSetup, validation: Evaluation) -> Evaluation:
    """Put the thresholds with the greatest F1 on validation images into the network's card.

    Returns:
        The evaluation on them from these thresholds on.
    """
    found, layer = validation.several, card_layer(setup.network)
    assert found is not None
    assert layer is not None
    columns = zip(found.scores.T, found.targets.T, strict=True)
    thresholds = tuple(best_threshold(scores, targets) for scores, targets in columns)
    layer.card = dataclasses.replace(layer.card, thresholds=thresholds)
    return validation.at(thresholds)
