"""What int8 could win of ViT and ConvNeXt: their products by TensorFlow's int8 operations beside bfloat16.

Command: python -m benchmarks.quantized_products [--images 1 8] [--pairs N]. `_QuantizedMatMul` for ViT-S/16's products,
`_FusedQuantizedDepthwiseConv2D` for ConvNeXt-T's 7x7. Weights and inputs are random, with a range each, as the
operations take them. The time of int8 has the rounding of its input and its output made float32: what lies between the
products of a block (layer norm, softmax, sums) has no int8 kernel. Then both networks whole, in bfloat16 but for these
products: the ranges are those of the images that are timed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import numpy as np
import tensorflow as tf
import tyro
from tensorflow.core.framework import attr_value_pb2

from benchmarks.export_layer_norm import again, with_random_weights
from resnet_keras.benchmarks.pairs import paired_ratio
from resnet_keras.export.floating import Write, emit_float, emitted, in_places, rows_of
from resnet_keras.export.lowering import lower
from resnet_keras.export.operations import Dense, Operation

TOKENS, WIDTH = 197, 384
PRODUCTS = {
    "queries, keys, values": (WIDTH, 3 * WIDTH),
    "output of attention": (WIDTH, WIDTH),
    "MLP, first": (WIDTH, 4 * WIDTH),
    "MLP, second": (4 * WIDTH, WIDTH),
}
"""Of a block of ViT-S/16 at 224x224: columns of the input and of the output."""
MAPS = {56: 96, 28: 192, 14: 384, 7: 768}
"""Of ConvNeXt-T's stages at 224x224: side and channels."""
NETWORKS = ("vit_s16", "convnext_tiny")
Run = Callable[[], np.ndarray]


@dataclass
class Arguments:
    """Time the products of ViT-S in bfloat16 and int8."""

    images: tuple[int, ...] = (1, 8)
    pairs: int = 21
    times: int = 10
    """Of a product in each timing."""


def main(arguments: Arguments) -> None:
    print(f"TensorFlow {tf.__version__}, pairs {arguments.pairs}")
    for images in arguments.images:
        for name, (before, after) in PRODUCTS.items():
            compare(f"images {images}  {name}", product(images * TOKENS, before, after), arguments)
        for side, channels in MAPS.items():
            compare(
                f"images {images}  depthwise, {side}x{side}x{channels}", depthwise(images, side, channels), arguments
            )
        for network in NETWORKS:
            compare(f"images {images}  {network}, whole", whole(network, images), arguments)


def compare(name: str, runs: tuple[Run, Run, Run], arguments: Arguments) -> None:
    """Print the times of the last two, and how far they are from the first, which is in float32."""
    exact, bfloat16, int8 = runs
    wanted = exact()
    apart = [np.abs(run().astype("float32") - wanted).max() / np.abs(wanted).max() for run in (bfloat16, int8)]
    mine, theirs, ratio = paired_ratio(again(int8, arguments.times), again(bfloat16, arguments.times), arguments.pairs)
    each = [1000 * seconds / arguments.times for seconds in (theirs, mine)]
    print(
        f"{name:35} bfloat16 {each[0]:6.2f} ms  int8 {each[1]:6.2f} ms   {ratio}   "
        f"apart {apart[0]:.1e}, {apart[1]:.1e} of the largest",
        flush=True,
    )


def product(rows: int, before: int, after: int) -> tuple[Run, Run, Run]:
    """`x @ kernel + bias` in float32, bfloat16 and int8."""
    kernel, bias = weights(before, after)

    def quantized(x: tf.Tensor, top: float) -> tf.Tensor:
        return quantized_product(x, top, kernel, bias, ["BiasAdd", "Dequantize"], tf.float32)

    return in_each(
        (rows, before), lambda x, dtype: tf.nn.bias_add(x @ tf.cast(kernel, dtype), tf.cast(bias, dtype)), quantized
    )


def quantized_product(
    x: tf.Tensor, top: float, kernel: np.ndarray, bias: np.ndarray, steps: list[str], output: tf.DType
) -> tf.Tensor:
    """Of levels `x`, of which 127 is `top`."""
    largest = float(np.abs(kernel).max())
    inputs = [x, levels(kernel, largest), tf.constant(bias), *map(tf.constant, (-top, top, -largest, largest))]
    dtypes = {"T1": tf.qint8, "T2": tf.qint8, "Tbias": tf.float32, "U": output, "Tout": output}
    constants = {"is_weight_const": True, "is_bias_const": True, "transpose_a": False, "transpose_b": False}
    modes = {name: attr_value_pb2.AttrValue(s=b"SCALED") for name in ("input_quant_mode", "output_quant_mode")}
    return operation("_QuantizedMatMul", inputs, [output], dtypes, constants, steps, modes)


def whole(network: str, count: int) -> tuple[Run, Run, Run]:
    """The features of a network in float32, in bfloat16, and in bfloat16 with the products of its blocks in int8."""
    rng = np.random.default_rng(0)
    ends = lower(with_random_weights(rk.create_model(network, include_preprocessing=True), rng))
    images = rng.integers(0, 256, (count, 224, 224, 3), "uint8")
    largest: dict[Operation, tf.Tensor] = {}

    def of_a_block(one: Operation, x: tf.Tensor) -> bool:
        return isinstance(one, Dense) and x.shape.rank > 2

    def watched(one: Operation, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
        if of_a_block(one, inputs[0]):
            largest[one] = tf.reduce_max(tf.abs(inputs[0]))
        return emitted(one, dtype, *inputs)

    def in_int8(one: Operation, dtype: tf.DType, *inputs: tf.Tensor) -> tf.Tensor:
        if not isinstance(one, Dense) or not of_a_block(one, inputs[0]):
            return emitted(one, dtype, *inputs)
        x, *summands = inputs
        steps = ["BiasAdd", *(["GeluExact"] if one.activation == "gelu" else []), "Dequantize"]
        rounded = levels_of(rows_of(x), ranges[one])
        y = quantized_product(rounded, ranges[one], one.kernel, one.bias.astype("float32"), steps, dtype)
        y.set_shape([None, one.kernel.shape[1]])
        return in_places(tf.add_n([y, *map(rows_of, summands)]) if summands else y, x)

    def session(dtype: tf.DType, write: Write) -> tuple[tf.compat.v1.Session, tf.Tensor, tf.Tensor]:
        with tf.Graph().as_default():
            pixels = tf.compat.v1.placeholder(tf.uint8, [None, *images.shape[1:]])
            features = tf.cast(emit_float(ends, pixels, dtype, write)[ends[1]], tf.float32)
            options = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1)
            return tf.compat.v1.Session(config=options), pixels, features

    def run(one: tuple[tf.compat.v1.Session, tf.Tensor, tf.Tensor]) -> Run:
        return functools.partial(one[0].make_callable(one[2], [one[1]]), images)

    exact = session(tf.float32, watched)
    ranges = {one: float(value) for one, value in exact[0].make_callable(largest, [exact[1]])(images).items()}
    return run(exact), run(session(tf.bfloat16, emitted)), run(session(tf.bfloat16, in_int8))


def depthwise(images: int, side: int, channels: int) -> tuple[Run, Run, Run]:
    """A depthwise convolution of 7x7 and its bias in float32, bfloat16 and int8, the last to qint8 and then float32."""
    flat, bias = weights(49, channels)
    kernel = flat.reshape(7, 7, channels, 1)

    def plain(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        strides = [1, 1, 1, 1]
        return tf.nn.bias_add(tf.nn.depthwise_conv2d(x, tf.cast(kernel, dtype), strides, "SAME"), tf.cast(bias, dtype))

    def quantized(x: tf.Tensor, top: float) -> tf.Tensor:
        limits = np.abs(flat).max(0)
        end = 8.0  # of a sum of 49 products of variance 1/49 and a bias of variance 1
        ranges = [tf.constant(one) for one in (-top, top, -limits, limits, -end, end)]
        inputs = [x, levels(kernel, limits[:, None]), tf.constant(bias), *ranges]
        dtypes = {"Tinput": tf.qint8, "Tfilter": tf.qint8, "Tbias": tf.float32, "Tsummand": tf.qint8}
        more = {"padding": attr_value_pb2.AttrValue(s=b"SAME"), "data_format": attr_value_pb2.AttrValue(s=b"NHWC")}
        more |= {name: listed(i=[1, 1, 1, 1]) for name in ("strides", "dilations")}
        more["explicit_paddings"] = listed(i=[])
        outputs, steps = [tf.qint8, tf.float32, tf.float32], ["BiasAdd", "Requantize"]
        constants = {"is_filter_const": True, "is_bias_const": True}
        dtypes["out_type"] = tf.qint8
        sums = operation("_FusedQuantizedDepthwiseConv2D", inputs, outputs, dtypes, constants, steps, more)
        return tf.cast(tf.bitcast(sums, tf.int8), tf.float32) * (end / 127)

    return in_each((images, side, side, channels), plain, quantized)


def weights(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(before, after)) / np.sqrt(before)
    return kernel.astype("float32"), rng.normal(size=after).astype("float32")


def in_each(
    shape: tuple[int, ...],
    plain: Callable[[tf.Tensor, tf.DType], tf.Tensor],
    quantized: Callable[[tf.Tensor, float], tf.Tensor],
) -> tuple[Run, Run, Run]:
    """What computes it of the same input in float32, in bfloat16, and in int8 of an input that is bfloat16."""
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    top, v1 = float(np.abs(x).max()), tf.compat.v1
    with tf.Graph().as_default():
        exact, rounded = v1.placeholder(tf.float32, shape), v1.placeholder(tf.bfloat16, shape)
        outputs = (
            (plain(exact, tf.float32), exact),
            (plain(rounded, tf.bfloat16), rounded),
            (quantized(levels_of(rounded, top), top), rounded),
        )
        session = v1.Session(config=v1.ConfigProto(inter_op_parallelism_threads=1))
        one, two, three = (
            functools.partial(session.make_callable(output, [given]), x.astype(given.dtype.as_numpy_dtype))
            for output, given in outputs
        )
        return one, two, three


def levels_of(x: tf.Tensor, top: float) -> tf.Tensor:
    x = tf.cast(x, tf.float32)
    y = tf.raw_ops.QuantizeV2(input=x, min_range=-top, max_range=top, T=tf.qint8, mode="SCALED").output
    y.set_shape(x.shape)
    return y


def levels(kernel: np.ndarray, largest: float | np.ndarray) -> tf.Tensor:
    return tf.bitcast(tf.constant(np.round(kernel / largest * 127).astype("int8")), tf.qint8)


def operation(
    name: str,
    inputs: list[tf.Tensor],
    outputs: list[tf.DType],
    dtypes: dict[str, tf.DType],
    constants: dict[str, bool],
    steps: list[str],
    more: dict[str, attr_value_pb2.AttrValue],
) -> tf.Tensor:
    """The first output of an operation that TensorFlow has for itself."""
    attributes = {
        "Tdevice_inputs": listed(type=[]),
        "Thost_inputs": listed(type=[tensor.dtype.as_datatype_enum for tensor in inputs]),
        "Tdevice_outputs": listed(type=[]),
        "Thost_outputs": listed(type=[dtype.as_datatype_enum for dtype in outputs]),
        "fused_ops": listed(s=[step.encode() for step in steps]),
        **{key: attr_value_pb2.AttrValue(type=dtype.as_datatype_enum) for key, dtype in dtypes.items()},
        **{key: attr_value_pb2.AttrValue(b=value) for key, value in constants.items()},
        **more,
    }
    graph = tf.compat.v1.get_default_graph()
    return graph.create_op(name, inputs, outputs, attrs=attributes, name="int8").outputs[0]


def listed(**values: list) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(**values))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
