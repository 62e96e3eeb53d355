"""scikit-learn's handwritten digits as a TensorFlow data set: 1,797 images of 8x8, no download."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, the test part of UCI's optdigits (Alpaydin & Kaynak 1998), 80 % for training.

    The split is stratified and always the same. It is random, so one writer can be on both sides of it.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 grey images of handwritten digits, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        images, targets = load_digits(return_X_y=True)
        images = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype("uint8")
        order = np.arange(len(targets))
        train, test = train_test_split(order, test_size=0.2, stratify=targets, random_state=0)
        return {
            "train": self._examples(images, targets, np.sort(train)),
            "test": self._examples(images, targets, np.sort(test)),
        }

    def _generate_examples(self, **_: Any) -> Any:
        raise NotImplementedError("the split generators hold the examples")

    @staticmethod
    def _examples(images: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in chosen:
            yield int(index), {"image": images[index], "label": int(targets[index])}
