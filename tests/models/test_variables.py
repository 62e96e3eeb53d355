"""The roles of variables, whatever they are called and whatever is frozen."""

import keras
import pytest

import resnet_keras as rk
from resnet_keras.models.variables import roles_of


@pytest.mark.parametrize("frozen", [False, True])
def test_roles_of_a_network(frozen: bool) -> None:
    model = rk.build_cifar_resnet(8, stochastic_depth=0.2, dropout=0.1, se_ratio=0.25, shortcut="B")
    roles = roles_of(model)
    if frozen:
        rk.freeze(model)
    norms = 1 + 3 * 2 + 2
    assert [v.name for v in roles.batch_stats] == ["moving_mean", "moving_variance"] * norms
    assert len(roles.seeds) == 2 + 1  # two blocks that may be dropped, and the dropout
    assert all("int" in v.dtype for v in roles.seeds)
    assert {v.name for v in roles.weights} == {"kernel", "bias", "gamma", "beta"}
    assert len(roles.seeds) + len(roles.batch_stats) + len(roles.weights) == len(model.variables)


def test_roles_follow_the_layer_and_not_the_name() -> None:
    class Named(keras.layers.Layer):
        """Weights with the names of others, and a norm in an attribute."""

        def build(self, input_shape: tuple[int | None, ...]) -> None:
            self.moving = self.add_weight(shape=(1,), name="moving_weight")
            self.counter = self.add_weight(shape=(), name="counter", dtype="int32", trainable=False)
            self.norm = keras.layers.BatchNormalization(center=False, scale=False)
            self.norm.build(input_shape)

        def call(self, x):
            return self.norm(x) * self.moving

    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.1)])
    named = Named()
    model = keras.Model(inputs, inner(named(inputs)))
    roles = roles_of(model)
    assert not roles.is_batch_stat(named.moving)
    assert not roles.is_seed(named.counter)
    assert all(roles.is_batch_stat(v) for v in named.norm.weights)
    assert [v.path for v in roles.batch_stats] == [
        v.path for v in model.variables if v.path.endswith(("mean", "variance"))
    ]
    assert [v.path for v in roles.seeds] == [v.path for v in model.variables if v.path.endswith("seed_generator_state")]
    assert len(roles.batch_stats) == 4
    assert len(roles.seeds) == 1
