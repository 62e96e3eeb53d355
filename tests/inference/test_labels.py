"""Average precision and thresholds of several labels an image: as scikit-learn has them, and best by trying all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from resnet_keras.inference.labels import LabelScores, average_precision, best_threshold

SCORES = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1, width=32, allow_subnormal=False), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = zip(*pairs, strict=True)
    return np.array(scores, "float32"), np.array(targets)


@settings(deadline=None, max_examples=150)
@given(SCORES)
def test_average_precision_is_scikit_learns(pairs: list[tuple[float, bool]]) -> None:
    scores, targets = arrays(pairs)
    found = average_precision(scores, targets)
    if not targets.any():
        assert found is None
        return
    assert found == pytest.approx(average_precision_score(targets, scores), abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(SCORES)
def test_average_precision_follows_the_order_alone(pairs: list[tuple[float, bool]]) -> None:
    scores, targets = arrays(pairs)
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    found = average_precision(scores, targets)
    assert average_precision(scores[order], targets[order]) == pytest.approx(found)
    ranks = np.unique(scores, return_inverse=True)[1]
    assert average_precision(ranks, targets) == pytest.approx(found)
    assert found is None or 0 < found <= 1


@settings(deadline=None, max_examples=150)
@given(SCORES)
def test_no_threshold_has_a_greater_f1(pairs: list[tuple[float, bool]]) -> None:
    scores, targets = arrays(pairs)
    found = best_threshold(scores, targets)
    assert 0 <= found <= 1
    if not targets.any():
        assert found == 0.5
        return
    best = f1_score(targets, scores >= np.float32(found))
    assert all(f1_score(targets, scores >= other) <= best + 1e-12 for other in [*scores, 0.5])


def test_the_threshold_is_between_scores_and_near_a_half() -> None:
    targets = np.array([True, True, False])
    assert best_threshold(np.array([0.9, 0.8, 0.3]), targets) == pytest.approx(0.55)
    assert best_threshold(np.array([0.2, 0.1, 0.05]), targets) == pytest.approx(0.075)
    assert best_threshold(np.array([0.9, 0.9, 0.9]), targets) == pytest.approx(0.45), "all are given"
    # Two of F1 2/3: taking one image, or all three.
    assert best_threshold(np.array([0.9, 0.6, 0.1]), np.array([True, False, True])) in (pytest.approx(0.75), 0.05)


def test_the_rows_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets, noise = rng.random((80, 4)) < (0.5, 0.3, 0.1, 0.0), rng.random((80, 4))
    scores = (0.6 * noise + 0.4 * targets).astype("float32")
    found = LabelScores(scores, targets, (0.4, 0.6, 0.5, 0.99))
    given = scores >= np.array(found.thresholds, "float32")
    rows = found.rows(("a", "b", "c", "d"))
    for i, row in enumerate(rows[:3]):
        assert row["precision"] == pytest.approx(precision_score(targets[:, i], given[:, i]))
        assert row["recall"] == pytest.approx(recall_score(targets[:, i], given[:, i]))
        assert row["f1"] == pytest.approx(f1_score(targets[:, i], given[:, i]))
    assert rows[3] == {
        "label": "d",
        "examples": 0,
        "recall": None,
        "precision": None,
        "f1": None,
        "average_precision": None,
        "threshold": 0.99,
    }
    expected = average_precision_score(targets[:, :3], scores[:, :3], average="macro")
    assert found.mean_average_precision == pytest.approx(expected)
    assert found.accuracy == pytest.approx((given == targets).mean())
