"""Tables of several labels an image, and how their images are split."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_keras.data.format import ImageFormat
from resnet_keras.data.pipeline import evaluation_batches
from resnet_keras.data.sources import open_source
from resnet_keras.data.splits import hold_out, places_below
from resnet_keras.data.targets import as_vectors, counts_of, in_words, places_of
from resnet_keras.models.card import ModelCard

LINES = ["red/0.jpg,b|a", "red/1.jpg,a", "red/2.jpg,", "blue/0.jpg, a | b |a", "blue/1.jpg,|", "blue/2.jpg,b"]


def targets_of(split: Any) -> list[list[bool]]:
    return split.targets.tolist()


def test_a_cell_has_several_labels_one_or_none(image_folder: Path) -> None:
    path = image_folder / "data.csv"
    path.write_text("\n".join(["image,label,split", *(f"{line},train" for line in LINES), "red/3.jpg,a|b,test"]))
    source = open_source(str(path))
    assert source.several
    assert source.labels == ("a", "b")
    both, a, none, b = [True, True], [True, False], [False, False], [False, True]
    assert targets_of(source.train) == [both, a, none, both, none, b]
    assert targets_of(source.test) == [both]
    path.write_text("\n".join(["image,label", "red/0.jpg,a", "red/1.jpg,a", "blue/0.jpg,b", "blue/1.jpg,b"]))
    assert not open_source(str(path)).several


def test_parquet_has_lists(image_folder: Path) -> None:
    path = image_folder / "data.parquet"
    images = [f"red/{i}.jpg" for i in range(4)]
    labels = [["a", "b"], ["a"], [], ["b"]]
    pq.write_table(pa.table({"image": images, "label": labels, "split": ["train"] * 3 + ["test"]}), path)
    source = open_source(str(path))
    assert targets_of(source.train) == [[True, True], [True, False], [False, False]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6), st.floats(0.02, 0.9))
def test_no_label_loses_its_last_image(seed: int, images: int, labels: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((images, labels)) < rng.random(labels)
    paths = [f"a/{seed}-{i}.png" for i in range(images)]
    chosen = places_below(paths, targets, "test", share)
    rest = np.setdiff1d(np.arange(images), chosen)
    assert (counts_of(targets[rest], labels)[counts_of(targets, labels) > 0] > 0).all()
    order = rng.permutation(images)
    moved = places_below([paths[i] for i in order], targets[order], "test", share)
    assert {paths[order[i]] for i in moved} == {paths[i] for i in chosen}, "by the names, not their order"


def test_the_validation_split_has_each_label(several_table: Path) -> None:
    source = hold_out(open_source(str(several_table)), 0.1)
    parts: list[Any] = [source.train, source.validation, source.test]
    assert sum(map(len, parts)) == 150
    assert all((counts_of(part.targets, 3) > 0).all() for part in parts)
    assert 5 <= len(parts[1]) <= 20


def test_batches_have_a_one_for_each_label(several_table: Path) -> None:
    source = open_source(str(several_table))
    batches = evaluation_batches(source, ImageFormat((16, 16), 3, ModelCard(crop=1.0)), 8)
    labels = np.concatenate([own for _, own in batches.as_numpy_iterator()])
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array(targets_of(source.test), "float32"))


def test_targets_of_both_kinds() -> None:
    one, several = np.array([2, 0, 2]), np.array([[True, False, True], [False, False, False], [False, True, True]])
    assert counts_of(one, 3).tolist() == [1, 0, 2]
    assert counts_of(several, 3).tolist() == [1, 1, 2]
    assert places_of(one, 2).tolist() == places_of(several, 2).tolist() == [0, 2]
    assert [in_words(target, "abc") for target in several] == ["a, c", "none", "b, c"]
    assert in_words(one[0], "abc") == "c"
    assert as_vectors(tf.constant(one), 3).numpy().tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(as_vectors(tf.constant(several), 3).numpy(), several.astype("float32"))
