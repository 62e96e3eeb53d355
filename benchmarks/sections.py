"""The sections of `make bench`: what each compares, and with which peers.

Each is a function from an effort to a report of its kind; a peer that is missing or ends is a note there.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import growth
from benchmarks.once import once, prepared
from benchmarks.serve_section import serve
from resnet_keras.benchmarks.command import compare_variants
from resnet_keras.benchmarks.machine import this_machine
from resnet_keras.benchmarks.report import Report, Row, report_of, rows_of
from resnet_keras.benchmarks.rounds import Effort, measure
from resnet_keras.benchmarks.settings import InferSettings, InputSettings, TrainSettings
from resnet_keras.benchmarks.variants import Process, Variant
from resnet_keras.errors import UsageError
from resnet_keras.models.registry import model_table, named

OURS, EAGER, COMPILED, KERAS = "resnet-keras train", "torch", "torch.compile", "Keras train_on_batch"
OURS_FLOAT, JAX, APPLICATIONS = "resnet-keras train, float32", "Keras train_on_batch, JAX", "keras.applications"
EXPORT = "model.export()"
CLASSIFIERS = ("ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121")
NETWORK, SIDE = "resnet50", 224
TRAINED = (("resnet50", 224, (16, 32)), ("cifar_resnet20", 32, (128,)))
CACHE = {"TORCHINDUCTOR_CACHE_DIR": str(Path("build/torch").resolve())}
"""Compiling takes minutes, which a second run need not take again."""
START, BUILD, WRITE, SERVER = "until it has answered", "a network with its weights", "an export, once", "a server"


def macs_of(model: str) -> int:
    """Multiply-adds of an image, by the table."""
    return int(model_table([model])[0]["macs"])


def train(effort: Effort) -> Report:
    """Training steps beside PyTorch, eager and compiled, Keras on TensorFlow and on JAX, and keras.applications."""
    variants = []
    for model, side, batches in TRAINED:
        for dtype in ("float32", "bfloat16"):
            for batch in batches:
                variants += _training(model, side, batch, dtype)
    return compare_variants("train", variants, effort, lenient=True)


def _training(model: str, side: int, batch: int, dtype: str) -> list[Variant]:
    found = TrainSettings((model,), (batch,), (side,), (dtype,)).variants()
    group, first = found[0].group, batch == min(TRAINED[0][2])
    if model == NETWORK and not first:  # five processes of the larger batch do not fit in 24 GiB
        found = [one for one in found if one.name == OURS]
    made = {"model": model, "image_size": side, "batch_size": batch, "dtype": dtype, "macs": macs_of(model)}
    torch = {**made, "classes": named(model).classes}
    found += [
        Variant(group, EAGER, Process("benchmarks.torch_training:step", torch)),
        Variant(group, COMPILED, Process("benchmarks.torch_training:step", {**torch, "compiled": True}, CACHE)),
    ]
    if dtype == "bfloat16":  # a process that the group of float32 does not share, so that both groups stay apart
        plain = {name: made[name] for name in ("model", "image_size", "batch_size")} | {"dtype": "float32"}
        again = Process("resnet_keras.benchmarks.training:our_step", plain, {"RESNET_KERAS_ROW": "beside bfloat16"})
        found.append(Variant(group, OURS_FLOAT, again))
    elif model != NETWORK:
        process = Process("benchmarks.keras_peers:jax_step", made, {"KERAS_BACKEND": "jax"})
        found.append(Variant(group, JAX, process))
    elif first:
        arguments = {**made, "application": "ResNet50"}
        del arguments["model"]
        found.append(Variant(group, APPLICATIONS, Process("benchmarks.keras_peers:application_step", arguments)))
    return found


def infer(effort: Effort) -> Report:
    """Predictions of ResNet-50 beside ONNX Runtime, OpenVINO and keras.applications."""
    found = InferSettings(NETWORK, (1, 8, 32), SIDE).variants()
    with tempfile.TemporaryDirectory() as folder:
        notes = prepared("benchmarks.files:peers", {"folder": folder, "model": NETWORK, "image_size": SIDE})
        peers = {
            "ONNX Runtime float32": Process("benchmarks.runtimes:onnx_runtime", {"folder": folder}),
            **{
                f"OpenVINO {dtype}": Process("benchmarks.runtimes:openvino", {"folder": folder, "dtype": dtype})
                for dtype in ("float32", "bfloat16", "int8")
            },
            f"{APPLICATIONS} {EXPORT}": _application("ResNet50", "export"),
        }
        for variant in [one for one in found if one.name == EXPORT]:
            found += [Variant(variant.group, name, peer, variant.arguments) for name, peer in peers.items()]
        report = compare_variants("infer", found, effort, lenient=True)
    rows = tuple(_without_answers(row) if row.name.startswith(APPLICATIONS) else row for row in report.rows)
    return dataclasses.replace(report, rows=rows, notes=(*notes, *report.notes))


def _without_answers(row: Row) -> Row:
    """Of another network, whose answers are others'."""
    left = {name: fact for name, fact in row.facts.items() if name not in ("agreement", "cosine")}
    return dataclasses.replace(row, facts=left)


def classifiers(effort: Effort) -> Report:
    """Any Keras classifier: ours of networks of keras.applications, beside `model.export()`."""
    variants = [
        Variant(f"{name} {SIDE}x{SIDE} batch 8", way, process, {"batch": 8})
        for name in CLASSIFIERS
        for way, process in {
            EXPORT: _application(name, "export"),
            **{f"servable {dtype}": _application(name, dtype) for dtype in ("float32", "bfloat16")},
        }.items()
    ]
    return compare_variants("classifiers", variants, effort, lenient=True)


def _application(name: str, way: str) -> Process:
    arguments = {"application": name, "image_size": SIDE, "way": way}
    return Process("benchmarks.keras_peers:application_predictions", arguments)


def input_section(effort: Effort) -> Report:
    """The training input beside Keras's layers, and beside decoding alone."""
    turn = {"seconds": effort.seconds}
    found = InputSettings("random", ("imagenet-resnet50", "imagenet-a1"), 64, SIDE, seconds=effort.seconds).variants()
    group = found[0].group
    for way in ("decode then crop", "the decoder alone"):
        arguments = {"way": way, "image_size": SIDE, "batch_size": 64}
        found.append(Variant(group, way, Process("benchmarks.input_peers:jpeg", arguments), turn))
    for work in ("crop and flip", "mixup or cutmix", "randaugment"):
        arguments = {"work": work, "batch_size": 128}
        for name, function in (("Keras's layers", "keras_layers"), ("ours", "cifar")):
            process = Process(f"benchmarks.input_peers:{function}", arguments)
            found.append(Variant(f"32x32 in memory, batch 128, {work}", name, process, turn))
    return compare_variants("input", found, effort, lenient=True)


def start(effort: Effort) -> Report:
    """Seconds until a command answers, a network is built, and an export is written; its memory."""
    words = {
        "--help": ["-m", "resnet_keras", "--help"],
        "models": ["-m", "resnet_keras", "models"],
    }
    variants = [
        Variant(START, name, Process("benchmarks.costs:command", {"words": each})) for name, each in words.items()
    ]
    variants.append(Variant(START, "import resnet_keras", Process("benchmarks.costs:importing")))
    networks = {
        f"{APPLICATIONS} ResNet50": {"model": NETWORK, "application": "ResNet50"},
        "resnet50": {"model": NETWORK},
        "cifar_resnet1202": {"model": "cifar_resnet1202"},
    }
    variants += [Variant(BUILD, name, Process("benchmarks.costs:building", each)) for name, each in networks.items()]
    name = f"JSON of {SIDE}x{SIDE}x3 floats to an array"
    variants.append(Variant(SERVER, name, Process("benchmarks.server_costs:parsing", {"side": SIDE})))
    machine = this_machine()
    short = Effort(min(effort.pairs, 3), 0.01)  # a call each
    measured, notes = measure(variants, short, lenient=True)
    exports = [("resnet50", "float32"), ("resnet50", "bfloat16"), ("resnet50", "int8"), ("resnet152", "float32")]
    points = [
        (WRITE, f"{model} {dtype}", Process("benchmarks.costs:export", {"model": model, "dtype": dtype}))
        for model, dtype in exports
    ]
    first = Process("benchmarks.server_costs:first_answer", {"model": NETWORK})
    points.append((SERVER, f"the first answer of a new one, {NETWORK} float32", first))
    more, left_out = once(points, {})
    rows = [*rows_of(measured, None), *more]
    return report_of("start", rows, None, short, machine=machine, notes=(*notes, *left_out))


def growth_section(effort: Effort) -> Report:
    """Time and memory by depth, width, batch, image size and replicas, with their slopes."""
    machine = this_machine()
    rows, notes = once(growth.processes(), {"seconds": effort.seconds})
    slopes = [dataclasses.asdict(each) for each in growth.slopes_of(rows)]
    if not rows:
        raise UsageError("; ".join(notes))
    found = report_of("growth", rows, None, effort, machine=machine, notes=tuple(notes))
    return dataclasses.replace(found, settings={"slopes": slopes})


SECTIONS: Mapping[str, Callable[[Effort], Report]] = {
    "train": train,
    "infer": infer,
    "classifiers": classifiers,
    "input": input_section,
    "serve": serve,
    "start": start,
    "growth": growth_section,
}
"""By the kind of their reports, in the order in which they run."""
