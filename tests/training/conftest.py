"""What the tests of training share."""

from collections.abc import Iterator

import pytest
import tensorflow as tf


@pytest.fixture(scope="package", autouse=True)
def graphs_as_they_are() -> Iterator[None]:
    """Without TensorFlow's rewriting of graphs, which takes longer than a few steps win by it.

    The commands that these tests start, and the tests of the other rooms, have it.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
