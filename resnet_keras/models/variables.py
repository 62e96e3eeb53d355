"""The roles of a model's variables: weight, batch statistic or seed."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras


@dataclass(frozen=True)
class VariableRoles:
    """The roles of the variables of a model or layer, by the layers that made them; each list in the model's order."""

    model: keras.Layer

    @cached_property
    def seeds(self) -> list[Any]:
        """States of random number generators: what Keras lists among the variables and not among the weights."""
        weights = {id(variable) for variable in self.model.weights}
        return [variable for variable in self.model.variables if id(variable) not in weights]

    @cached_property
    def batch_stats(self) -> list[Any]:
        """Statistics of batch norms, which training moves without a gradient: all they have but gamma and beta."""
        found = {
            id(variable)
            # Keras's own walk also finds a layer that another one keeps in an attribute.
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in layer.weights
            if variable is not layer.gamma and variable is not layer.beta
        }
        return [variable for variable in self.model.variables if id(variable) in found]

    @cached_property
    def weights(self) -> list[Any]:
        """All others: what a gradient may move, frozen or not."""
        return [v for v in self.model.variables if not (self.is_seed(v) or self.is_batch_stat(v))]

    def is_seed(self, variable: Any) -> bool:
        return id(variable) in self._seed_ids

    def is_batch_stat(self, variable: Any) -> bool:
        return id(variable) in self._batch_stat_ids

    @cached_property
    def _seed_ids(self) -> set[int]:
        return {id(variable) for variable in self.seeds}

    @cached_property
    def _batch_stat_ids(self) -> set[int]:
        return {id(variable) for variable in self.batch_stats}


def roles_of(model: keras.Layer) -> VariableRoles:
    """The roles of the variables of a built model or layer, ours or another's.

    A variable keeps its role when it is frozen. `roles_of(model).is_seed(variable)` tells it of one variable.
    """
    return VariableRoles(model)
