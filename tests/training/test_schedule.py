"""The learning rate along a run."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.config.train import Schedule
from resnet_keras.training.schedule import rate_at


@pytest.mark.parametrize("total", [8, 1000])
def test_schedules_are_fractions_of_the_run(total: int) -> None:
    def rates(**fields: Any) -> np.ndarray:
        schedule = Schedule(**fields)
        every = np.broadcast_to(rate_at(tf.range(total + 1), 2.0, schedule, total), total + 1)
        assert float(rate_at(total // 3, 2.0, schedule, total)) == pytest.approx(every[total // 3], rel=1e-6)
        return every

    np.testing.assert_allclose(rates(decay="constant"), 2.0)
    steps = rates(decay="step", milestones=(0.5, 0.75))
    assert steps[total // 2 - 1] == 2.0
    np.testing.assert_allclose(steps[[total // 2, total * 3 // 4, total]], [0.2, 0.02, 0.02], rtol=1e-5)
    cosine = rates(decay="cosine", warmup=0.25)
    assert cosine[0] == pytest.approx(2.0 / (total / 4))
    assert cosine[total // 4] == pytest.approx(2.0)
    assert cosine[total * 5 // 8] == pytest.approx(1.0, rel=1e-3)
    assert cosine[total] == pytest.approx(0.0, abs=1e-6)
    linear = rates(decay="linear", warmup=0.5)
    assert linear[total * 3 // 4] == pytest.approx(1.0)
    assert (np.diff(linear[total // 2 :]) < 0).all()
    np.testing.assert_allclose(rates(decay="poly", power=1), rates(decay="linear"), rtol=1e-5, atol=1e-6)
    assert rates(decay="poly", power=3)[total // 2] == pytest.approx(2.0 / 8)
    assert rates(decay="cosine", floor=0.1)[total] == pytest.approx(0.2)
    hidden = rates(decay="cosine", warmup=0.25, warmup_from=0.1, warmup_prefix=False)  # as timm's
    whole = rates(decay="cosine")
    np.testing.assert_allclose(hidden[total // 4 :], whole[total // 4 :], rtol=1e-6)
    assert hidden[total // 4] < 1.75  # not the peak
    held = rates(decay="constant", warmup=0.25, warmup_from=0.1, warmup_shape="constant")
    np.testing.assert_allclose(held, np.where(np.arange(total + 1) < total / 4, 0.2, 2.0), rtol=1e-6)
    assert rates(decay="constant", warmup=0.5, warmup_from=0.5)[0] == pytest.approx(1 + 2 / total)
