"""What a graph needs of the TensorFlow that loads it, and whether that of a released server has it."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2

from resnet_keras.errors import UsageError
from resnet_keras.export.releases import RELEASES, added_after, release_name, release_of


def nodes_of(graph: graph_pb2.GraphDef) -> Iterator[node_def_pb2.NodeDef]:
    """Its nodes and those of its functions, but for calls that have a function's name for an operation."""
    functions = {function.signature.name for function in graph.library.function}
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from (node for node in nodes if node.op not in functions)


def needs_of(graph: graph_pb2.GraphDef) -> dict[str, Any]:
    """For a manifest: `producer` and `min_consumer`, numbers of `RELEASES`, and all types of operation, sorted."""
    return {
        "producer": graph.versions.producer,
        "min_consumer": graph.versions.min_consumer,
        "operations": sorted({node.op for node in nodes_of(graph)}),
    }


def words_of(graph: graph_pb2.GraphDef) -> set[str]:
    """All that a graph uses, in the words of `releases.py`."""
    words = set()
    for node in nodes_of(graph):
        words.add(node.op)
        for name, value in node.attr.items():
            words.add(f"{node.op}.{name}")
            for number in (value.type, *value.list.type):
                words.add(f"{node.op}.{name}={type_name(number)}")
    return words


def type_name(number: int) -> str:
    """`uint8` of TensorFlow's number for it."""
    return types_pb2.DataType.Name(number).removeprefix("DT_").lower()


def check_release(graph: graph_pb2.GraphDef, version: str) -> None:
    """Raise `UsageError` where a server of a release cannot load a graph.

    Args:
        graph: as it is written, without the attributes that have their default.
        version: of TensorFlow Serving: `2.19`, or `2.19.1`.
    """
    release = release_of(version)
    newest = list(RELEASES)[-1]
    if (own := release_name(tf.__version__)) not in RELEASES:
        raise UsageError(
            f"what this TensorFlow {own} added since {newest} is not known here, so not what {release} lacks of it; "
            f"export with TensorFlow {newest}"
        )
    if lacking := sorted(words_of(graph) & added_after(release)):
        raise UsageError(
            f"TensorFlow Serving {release} does not know {', '.join(lacking)}, which this network's graph has; "
            "leave the layer out that brings it, or use a later server"
        )
    consumer, versions = RELEASES[release].graph_def_version, graph.versions
    if consumer < versions.min_consumer or consumer in versions.bad_consumers:
        raise UsageError(
            f"TensorFlow Serving {release} reads graphs of version {consumer}, and this one is for "
            f"{versions.min_consumer} and later; use a later server"
        )
