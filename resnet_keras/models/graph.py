"""A functional model as one graph, the models inside it opened; and its head."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras


@dataclass(frozen=True)
class Place:
    """A tensor of the graph: what a call of a layer or operation gives, or the input of the whole model."""

    tensor: Any = field(compare=False)
    callers: tuple[tuple[Any, Any], ...] = field(compare=False)
    """The models around it, the outermost first, each with its call's node; the outermost has none."""
    key: tuple[int, ...]

    @property
    def is_input(self) -> bool:
        """Whether it is the input of the whole model."""
        return len(self.callers) == 1 and any(self.tensor is one for one in self.callers[0][0].inputs)

    @property
    def operation(self) -> Any:
        """The layer or operation that gives it."""
        return self.tensor._keras_history.operation

    @property
    def node(self) -> Any:
        """The call that gives it."""
        return self.operation._inbound_nodes[self.tensor._keras_history.node_index]

    @property
    def inputs(self) -> tuple["Place", ...]:
        """What that call reads."""
        return () if self.is_input else tuple(_opened(tensor, self.callers) for tensor in self.node.input_tensors)

    @property
    def within(self) -> Any:
        """The innermost model that it is in."""
        return self.callers[-1][0]


def output_of(model: keras.Model) -> Place:
    """The one output of a functional model or `Sequential`; from there, `Place.inputs` leads to all of it."""
    return _opened(model.outputs[0], ((model, None),))


def _opened(tensor: Any, callers: tuple[tuple[Any, Any], ...]) -> Place:
    """The place of a tensor: into a model that gives it, and out of one whose input it is."""
    while True:
        model, call = callers[-1]
        found = [i for i, one in enumerate(model.inputs) if one is tensor]
        operation = tensor._keras_history.operation
        if found and call is None:
            break
        if found:
            tensor, callers = call.input_tensors[found[0]], callers[:-1]
        elif _can_open(operation):
            node = operation._inbound_nodes[tensor._keras_history.node_index]
            tensor, callers = operation.outputs[tensor._keras_history.tensor_index], (*callers, (operation, node))
        else:
            break
    return Place(tensor, callers, (id(tensor), *(id(node) for _, node in callers)))


def _can_open(operation: Any) -> bool:
    return isinstance(operation, keras.Model) and is_functional(operation) and len(operation.inputs) == 1


def is_functional(model: Any) -> bool:
    """Whether a model's graph is known: of a subclass, or a `Sequential` that has seen no input, it is not."""
    try:
        return bool(model.inputs and model.outputs)
    except (AttributeError, ValueError):
        return False


def in_order(*ends: Place) -> list[Place]:
    """All that the ends need, each after its inputs and once."""
    found: dict[Place, None] = {}
    stack = [(end, False) for end in reversed(ends)]
    while stack:
        place, ready = stack.pop()
        if place in found:
            continue
        if ready:
            found[place] = None
        else:
            stack.append((place, True))
            stack.extend((one, False) for one in reversed(place.inputs))
    return list(found)


def run(ends: Iterable[Place], inputs: Any) -> dict[Place, Any]:
    """Every tensor that the ends need, in inference. `inputs` is what the model takes."""
    values: dict[Place, Any] = {}
    calls: dict[tuple[int, ...], list[Any]] = {}
    for place in in_order(*ends):
        if place.is_input:
            values[place] = inputs
            continue
        call = (id(place.node), *place.key[1:])
        if call not in calls:
            given = dict(zip(map(id, place.node.input_tensors), (values[one] for one in place.inputs), strict=True))
            calls[call] = keras.tree.flatten(called(place.operation, place.node, given))
        values[place] = calls[call][place.tensor._keras_history.tensor_index]
    return values


def called(operation: Any, node: Any, given: Mapping[int, Any]) -> Any:
    """A layer or operation called again as in `node`, in inference, with these values for its Keras tensors, by id."""
    arguments, keywords = node.arguments.fill_in(given)
    return operation(*arguments, **{**keywords, **inference(operation)})


def inference(operation: Any) -> dict[str, bool]:
    """`training=False` for what takes it: layers that augment do so by default."""
    return {"training": False} if "training" in inspect.signature(operation.call).parameters else {}


@dataclass(frozen=True)
class Head:
    """How a classifier ends."""

    place: Place
    """[N, classes]: what its last layer with weights gives, or whatever else stands before its activations."""
    dense: keras.layers.Dense | None
    """That layer, where it is one."""
    activation: str
    """What makes the scores of it: "softmax", ...; "linear" where nothing does, "" where nothing says."""
    layers: tuple[Any, ...]
    """From the model's output back to that of `place`, each with the model that it is in."""

    @property
    def features(self) -> Place:
        """[N, features]: what the dense layer reads."""
        return self.place.inputs[0]

    def logits(self, values: Mapping[Place, Any]) -> Any:
        """The tensor `[N, classes]` before the softmax or sigmoid, of the values of a `run` up to `place`."""
        if self.dense is None or self.dense.activation is keras.activations.linear:
            return values[self.place]
        logits = keras.ops.matmul(keras.ops.cast(values[self.features], self.dense.compute_dtype), self.dense.kernel)
        return logits if self.dense.bias is None else logits + self.dense.bias


def head_of(model: Any) -> Head:
    """The head of a functional model: back from its output, through what has no weights and leaves the shape."""
    place, activation = output_of(model), ""
    layers = []
    while True:
        layers.append((place.operation, place.within))
        activation = activation or _activation(place.operation)
        if not _leaves_shape(place):
            break
        place = place.inputs[0]
    dense = place.operation if isinstance(place.operation, keras.layers.Dense) else None
    behind = place
    while not activation and not behind.is_input and len(behind.inputs) == 1 and not _weights(behind.operation):
        behind = behind.inputs[0]  # as a convolution behind a global pool
        activation = _activation(behind.operation)
    if not activation and hasattr(behind.operation, "activation"):
        activation = "linear"
    return Head(place, dense, activation, tuple(layers))


def _leaves_shape(place: Place) -> bool:
    inputs = () if _weights(place.operation) else place.inputs
    return len(inputs) == 1 and tuple(inputs[0].tensor.shape) == tuple(place.tensor.shape)


def _weights(operation: Any) -> list[Any]:
    return getattr(operation, "weights", [])


def _activation(operation: Any) -> str:
    """The name of what a layer or operation puts behind its sum; "" for nothing."""
    if operation.name == "logits" and not _weights(operation):  # as a run puts it around a model of probabilities
        return "linear"
    kind = type(operation).__name__.lower()
    if kind in ("softmax", "sigmoid"):
        return kind
    found = getattr(operation, "activation", None)
    name = getattr(found, "__name__", found) or ""
    return "" if name == "linear" else str(name)
