"""Classify, Regress and MultiInference: the calls whose input is a list of `tf.Example` (classifier.cc, regressor.cc).

Our own servables have no such signature; models of others do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from resnet_keras.serving.json_reader import from_base64, is_base64, json_type, shown
from resnet_keras.serving.loaded import DEFAULT_SIGNATURE, LoadedVersion, OutputArrays
from resnet_keras.serving.status import Code, ServingError, invalid

Kind = Literal["classification", "regression"]
METHODS: dict[str, Kind] = {
    "tensorflow/serving/classify": "classification",
    "tensorflow/serving/regress": "regression",
}
"""By the method names of signatures."""


@dataclass(frozen=True)
class Inferred:
    """The result of one signature, and the version that gave it."""

    model: str
    version: int
    signature: str
    result: Any
    """A ClassificationResult or a RegressionResult."""


def outputs_of(version: LoadedVersion, signature: str, kind: Kind) -> list[str]:
    """The outputs that a call of this kind asks for. Raises `ServingError` for a signature of another kind."""
    if signature not in version.signatures:
        raise invalid(f"No signature was found with the name: {signature}")
    definition = version.signatures[signature]
    wanted = next(method for method, its in METHODS.items() if its == kind)
    if definition.method_name != wanted:
        raise invalid(
            f"Expected {kind} signature method_name to be {wanted}. Was: {definition.method_name or '(none)'}"
        )
    if list(definition.inputs) != ["inputs"]:
        raise invalid(
            f"No {kind} inputs found in SignatureDef: it has {sorted(definition.inputs)}, and not inputs alone"
        )
    known = ["classes", "scores"] if kind == "classification" else ["outputs"]
    names = [name for name in known if name in definition.outputs]
    if not names or len(definition.outputs) > len(names):
        raise invalid(f"No {kind} outputs found in SignatureDef: it has {sorted(definition.outputs)}, not {known}")
    return names


def serialized(given: input_pb2.Input) -> np.ndarray:
    """The examples of a request, with its context put before each, as the bytes that a signature parses."""
    kind = given.WhichOneof("kind")
    examples = list(getattr(given, kind).examples) if kind else []
    if not examples:
        raise invalid("Input is empty.")
    context = given.example_list_with_context.context.SerializeToString() if kind != "example_list" else b""
    array = np.empty(len(examples), object)
    array[:] = [context + example.SerializeToString() for example in examples]
    return array


def result_of(kind: Kind, outputs: OutputArrays, count: int) -> Any:
    """The message of a signature's outputs for so many examples. Raises `ServingError` where they do not fit."""
    if kind == "regression":
        values = outputs["outputs"]
        if values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,)):
            words = "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            raise invalid(f"{words} {list(values.shape)}")
        if len(values) != count:
            raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(values)}")
        if values.dtype != np.float32:
            raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}")
        regressions = [regression_pb2.Regression(value=value) for value in values.ravel().tolist()]
        return regression_pb2.RegressionResult(regressions=regressions)
    for name, array in outputs.items():
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if (array.dtype != object) if name == "classes" else (array.dtype != np.float32):
            wanted = "DT_STRING" if name == "classes" else "DT_FLOAT"
            raise invalid(f"Expected {name} Tensor of {wanted}. Got: {array.dtype}")
        if len(array) != count:
            raise invalid(f"Expected {name} output batch size of {count}. Got: {len(array)}")
    widths = {array.shape[1] for array in outputs.values()}
    if len(widths) > 1:
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {' vs. '.join(map(str, widths))}")
    result = classification_pb2.ClassificationResult()
    for row in range(count):
        classes = result.classifications.add().classes
        for place in range(*widths):
            one = classes.add()
            if "classes" in outputs:
                one.label = outputs["classes"][row, place].decode("utf-8", "replace")
            if "scores" in outputs:
                one.score = float(outputs["scores"][row, place])
    return result


def input_from_json(request: Mapping[str, Any]) -> input_pb2.Input:
    """The examples of a REST request. Raises `ServingError` (INVALID_ARGUMENT)."""
    given = input_pb2.Input()
    has_context = "context" in request
    if has_context:
        _fill(given.example_list_with_context.context, request["context"])
    if "examples" not in request:
        raise invalid(
            f"JSON Value: {shown(request)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = request["examples"]
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {shown(request)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {shown(request)} 'examples' value is an empty array")
    target = given.example_list_with_context.examples if has_context else given.example_list.examples
    for example in examples:
        _fill(target.add(), example)
    return given


def _fill(example: Any, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value.items():
        if not _is_text(name):
            raise invalid(f"Feature name {shown(name)} is not UTF-8")
        feature = example.features.feature[name]
        feature.SetInParent()
        for element in content if isinstance(content, list) else [content]:
            _add(feature, name, element)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # of bytes that are not UTF-8, or half of a surrogate pair
        return False
    return True


FEATURES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def _add(feature: tf.train.Feature, name: str, value: Any) -> None:
    if isinstance(value, bool | int):
        kind, value = "int64_list", int(value)
        if 2**63 <= value < 2**64:
            raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        if not -(2**63) <= value < 2**63:
            kind, value = "float_list", float(value)
    elif isinstance(value, float):
        kind = "float_list"
    elif isinstance(value, str):
        kind, value = "bytes_list", value.encode("utf-8", "surrogateescape")
    elif is_base64(value):
        kind, value = "bytes_list", from_base64(value)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {FEATURES[before]}")
    with np.errstate(over="ignore"):
        getattr(feature, kind).value.append(float(np.float32(value)) if kind == "float_list" else value)


def results_of(result: Any) -> list[Any]:
    """A result as REST has it: `[label, score]` of each class of each example, or a number for each example."""
    if isinstance(result, regression_pb2.RegressionResult):
        return [_shortest(one.value) for one in result.regressions]
    return [[[one.label, _shortest(one.score)] for one in each.classes] for each in result.classifications]


def _shortest(value: float) -> float:
    """Of a float32, the fewest digits that give it back."""
    return float(str(np.float32(value)))


def tasks_of(tasks: Sequence[Any]) -> list[tuple[str, Kind]]:
    """Signature and kind of each task of MultiInference. Raises `ServingError` for tasks that cannot go together."""
    found: list[tuple[str, Kind]] = []
    for task in tasks:
        signature = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if signature in [known for known, _ in found]:
            raise invalid(f"Duplicate evaluation of signature: {signature}")
        if task.method_name not in METHODS:
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        found.append((signature, METHODS[task.method_name]))
    return found
