"""A SavedModel of one flat graph, as TensorFlow Serving runs it: no functions to inline.

Weights are constants of the graph, once for all signatures; the kernels of a large network are variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.python.framework.meta_graph import strip_graph_default_valued_attrs

from resnet_keras.errors import UsageError

PREDICT = "tensorflow/serving/predict"
LARGEST = 2**31 - 1
"""Bytes of a protocol buffer, and so of a graph with its weights."""


@dataclass(frozen=True)
class Signature:
    """Tensors of the graph, by the names that clients use."""

    inputs: Mapping[str, tuple[tf.Tensor, list[int | None]]]
    """With the shapes that the graph asks for when it is run."""
    outputs: Mapping[str, tf.Tensor]


def write_saved_model(
    graph: tf.Graph, signatures: Mapping[str, Signature], folder: Path, variables: Sequence[tf.Variable] = ()
) -> graph_pb2.GraphDef:
    """Write `folder/saved_model.pb`, with what restores the variables; returns the graph that is in it.

    Attributes that have their default are left out, as by `strip_default_attrs` of `tf.compat.v1.saved_model.Builder`.
    An earlier TensorFlow ignores one that it does not know, which is right for a default and for nothing else.

    Raises:
        UsageError: the network is too large for one file.
    """
    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    if variables:
        with graph.as_default():
            meta.saver_def.CopyFrom(tf.compat.v1.train.Saver(variables).as_saver_def())
            # By which `tf.saved_model.load` tells those of one model from those of another that has the same names.
            written = meta.collection_def[tf.compat.v1.GraphKeys.GLOBAL_VARIABLES].bytes_list.value
            written.extend(variable.to_proto().SerializeToString() for variable in variables)
    meta.graph_def.CopyFrom(graph.as_graph_def())
    meta.meta_info_def.tags.append(tf.saved_model.SERVING)
    meta.meta_info_def.tensorflow_version = tf.__version__
    strip_graph_default_valued_attrs(meta)
    for name, signature in signatures.items():
        written = meta.signature_def[name]
        written.method_name = PREDICT
        for key, (tensor, shape) in signature.inputs.items():
            written.inputs[key].CopyFrom(_tensor_info(tensor, tf.TensorShape(shape)))
        for key, tensor in signature.outputs.items():
            written.outputs[key].CopyFrom(_tensor_info(tensor, tensor.shape))
    size = saved.ByteSize()
    if size > LARGEST:
        raise UsageError(f"the network takes {size / 2**30:.1f} GiB as a graph, and a SavedModel's can take 2")
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString(deterministic=True))
    return meta.graph_def


def _tensor_info(tensor: tf.Tensor, shape: tf.TensorShape) -> meta_graph_pb2.TensorInfo:
    return meta_graph_pb2.TensorInfo(
        name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=shape.as_proto()
    )
