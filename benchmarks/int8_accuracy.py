"""What int8 costs in accuracy: after the training and in it, by a plain recipe and by one like A1, on the test split.

Command: python -m benchmarks.int8_accuracy [--data cifar10] [--data-dir DIR] [--epochs N] [--tune-epochs N]
[--seeds 0 1 2] [--output FOLDER]; --data digits for a quick look. For each recipe and seed a network is trained in
float32, and from it some with outlier channels are made, which compute the same in float32 (see `add_outliers`). From
each, a run trains on in int8 and another, the control, in float32: the same epochs, images, loss and Adam. Each is
exported and asked through its servable. Runs that are there already are read; FOLDER has results.json besides.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import resnet_keras as rk  # first: it keeps TensorFlow's start-up messages to itself

# isort: split
import keras
import numpy as np
import tensorflow as tf

from resnet_keras.cli.flags import fill
from resnet_keras.config.augmentation import Augmentation
from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import Optimizer, Schedule, TrainConfig
from resnet_keras.data.format import image_format
from resnet_keras.data.pipeline import in_memory
from resnet_keras.data.sources import open_source
from resnet_keras.errors import UsageError, require
from resnet_keras.export.comparison import run_servable
from resnet_keras.export.servable import manifest_of
from resnet_keras.files import json_text, write_text
from resnet_keras.models.blocks import BasicBlock
from resnet_keras.models.layers import sublayers_of
from resnet_keras.reports.intervals import interval_of, paired_difference

BATCH = 1000
"""Images that a servable is asked at a time."""
COLUMNS = {
    "float32": "float32",
    "int8": "int8 after the training",
    "tuned_float32": "trained on in float32",
    "tuned_int8": "the same, int8 after it",
    "trained_int8": "trained on in int8",
}


@dataclass
class Arguments:
    """Train networks, quantise them after the training and in it, and print their test accuracies as a table."""

    data: Literal["cifar10", "digits"] = "cifar10"
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    model: str = "cifar_resnet20"
    """Of basic blocks."""
    blocks: str | None = None
    """Blocks of each stage, such as 1,1,1; the model's own when left out."""
    recipes: tuple[Literal["plain", "a1"], ...] = ("plain", "a1")
    seeds: tuple[int, ...] = (0,)
    epochs: int = 30
    """Of the training in float32."""
    tune_epochs: int = 5
    """Of the runs from there on."""
    tune_rate: float = 2e-4
    """Their peak learning rate, of Adam: SGD would have to take that of the outlier channels, a factor squared less."""
    outliers: tuple[float, ...] = (64.0, 256.0)
    """What outlier channels are multiplied by, a network each."""
    outlier_share: float = 0.05
    """Of the channels between the two convolutions of a block, at least one."""
    output: Path = Path("runs/int8-accuracy")
    """The folder of all runs, servables and results.json."""
    quiet: bool = False
    """No progress on standard error."""

    def __post_init__(self) -> None:
        for name in ("epochs", "tune_epochs"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(all(factor > 0 for factor in self.outliers), "outliers", "above 0", self.outliers)
        require(self.tune_rate > 0, "tune_rate", "above 0", self.tune_rate)
        require(bool(self.seeds and self.recipes), "seeds and recipes", "one or more", "none")


def plain(arguments: Arguments) -> TrainConfig:
    """Softmax cross-entropy, SGD, crops and mirror images: cifar10-resnet20-short, or digits."""
    if arguments.data == "digits":
        return recipe("digits")
    return recipe("cifar10-resnet20-short")


def like_a1(arguments: Arguments) -> TrainConfig:
    """Wightman et al. 2021, A1, for small images: its binary cross-entropy of smoothed and mixed labels, MixUp, CutMix,
    RandAugment, LAMB and cosine; crops after padding, batches of 256, no repeats, and no stochastic depth."""
    a1 = recipe("imagenet-a1")
    small = Augmentation(crop="pad", pad=4, flip=True)
    if arguments.data == "digits":  # which a mirror or a warp makes others of
        augmentation = dataclasses.replace(small, pad=1, flip=False, mixup=0.2, cutmix=1.0)
    else:
        kept = {name: getattr(a1.augmentation, name) for name in ("policy", "operations", "magnitude", "magnitude_std")}
        kept |= {name: getattr(a1.augmentation, name) for name in ("operation_probability", "mixup", "cutmix")}
        augmentation = dataclasses.replace(small, **kept)
    return TrainConfig(
        name=f"{arguments.data}-a1",
        data=arguments.data,
        batch_size=64 if arguments.data == "digits" else 256,
        augmentation=augmentation,
        loss="sigmoid",
        label_smoothing=a1.label_smoothing,
        target_threshold=a1.target_threshold,
        optimizer=a1.optimizer,
        schedule=Schedule(decay="cosine", warmup=0.05),
    )


RECIPES: Mapping[str, Callable[[Arguments], TrainConfig]] = {"plain": plain, "a1": like_a1}


def add_outliers(model: keras.Model, factor: float, share: float) -> int:
    """Multiply some channels between the two convolutions of each basic block, and divide what reads them.

    ReLU is homogeneous, so the outputs in float32 stay as they are but for rounding. The range of the map is that of
    the largest channel, of which the others use a part.

    Args:
        model: of basic blocks of batch norm and ReLU, changed in place.
        factor: above 0.
        share: of the channels of each block, at least one: those whose gammas are the largest.

    Returns:
        The blocks.
    """
    blocks = [layer for _, layer in sublayers_of(model) if isinstance(layer, BasicBlock)]
    for block in blocks:
        first, second = block.branch[:2]
        norms = [one for _, one in sublayers_of(first) if isinstance(one, keras.layers.BatchNormalization)]
        readers = [one for _, one in sublayers_of(second) if isinstance(one, keras.layers.Conv2D)]
        (norm,), (reader,) = norms, readers
        gamma, beta, kernel = (v.numpy() for v in (norm.gamma, norm.beta, reader.kernel))
        chosen = np.argsort(-np.abs(gamma))[: max(1, round(share * len(gamma)))]
        gamma[chosen] *= factor
        beta[chosen] *= factor
        kernel[:, :, chosen] /= factor
        for variable, value in ((norm.gamma, gamma), (norm.beta, beta), (reader.kernel, kernel)):
            variable.assign(value)
    if not blocks:
        raise UsageError(f"{model.name} has no basic blocks to give outlier channels to; take cifar_resnet20")
    return len(blocks)


def measure(arguments: Arguments, name: str, seed: int) -> list[dict[str, Any]]:
    """The accuracies of the networks of a recipe and a seed: with their own weights, and with outlier channels."""
    folder = arguments.output / f"{name}-seed{seed}"
    config = dataclasses.replace(
        RECIPES[name](arguments), model=arguments.model, seed=seed, data_dir=arguments.data_dir
    )
    if arguments.blocks:
        config = dataclasses.replace(config, model_options={"blocks": arguments.blocks})
    first = dataclasses.replace(config, epochs=arguments.epochs, run_dir=str(folder / "float32"))
    rk.train(first, quiet=arguments.quiet)
    starts = {"as trained": folder / "float32"}
    for factor in arguments.outliers:
        model = rk.load_model(folder / "float32")
        add_outliers(model, factor, arguments.outlier_share)
        model.save(made := folder / f"outliers-{factor:g}.keras")
        starts[f"outlier channels, x{factor:g}"] = made
    rows = []
    for weights, start in starts.items():
        found = {
            "float32": asked(arguments, start, "float32"),
            "int8": asked(arguments, start, "int8"),
        }
        ends = {}
        for quantize in (None, "int8"):
            ends[quantize] = folder / f"{start.stem}-on-{quantize or 'float32'}"
            tuned = dataclasses.replace(
                config,
                epochs=arguments.tune_epochs,
                weights=str(start),
                quantize=quantize,
                optimizer=Optimizer(learning_rate=arguments.tune_rate, algorithm="adam", weight_decay=0.0),
                schedule=Schedule(decay="cosine"),
                run_dir=str(ends[quantize]),
            )
            rk.train(tuned, quiet=arguments.quiet)
        found["tuned_float32"] = asked(arguments, ends[None], "float32")
        found["tuned_int8"] = asked(arguments, ends[None], "int8")
        found["trained_int8"] = asked(arguments, ends["int8"], "int8")
        rows.append({"recipe": name, "weights": weights, "seed": seed, **found})
    return rows


def asked(arguments: Arguments, model: Path, dtype: str) -> float:
    """The accuracy on the test split of a servable of a model, as a fraction."""
    network = rk.load_model(model)
    trained_so = bool(rk.model_card(network).int8_ranges)
    calibration = arguments.data if dtype == "int8" and not trained_so else None
    base = arguments.output / "served" / f"{model.parent.name}-{model.stem}-{dtype}"
    folder = rk.export_servable(
        network, base, dtype=dtype, calibration_data=calibration, data_dir=arguments.data_dir, max_accuracy_loss=100.0
    )
    if dtype == "int8" and ("ranges" in manifest_of(folder)["int8"]) != trained_so:
        raise RuntimeError(f"{folder} has other ranges than those of its training")
    split = in_memory(open_source(arguments.data, arguments.data_dir).test, image_format(network))
    assert split is not None
    parts = []
    for i in range(0, len(split.images), BATCH):
        answer = run_servable(folder, {"serving_default": {"image": split.images[i : i + BATCH]}})
        parts.append(answer["serving_default"]["probabilities"].argmax(-1))
    return float((np.concatenate(parts) == split.targets).mean())


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table: a line for a recipe and its weights, accuracies in %, with 95 % intervals over seeds."""
    head = ["recipe", "weights", "n", *COLUMNS.values(), "trained in int8, less int8 after the training"]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 2)}"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["recipe"], row["weights"]), []).append(row)
    for names, of_seeds in groups.items():
        values = {column: [100 * row[column] for row in of_seeds] for column in COLUMNS}
        cells = [interval_of(values[column]).text() for column in COLUMNS]
        gain = paired_difference(values["trained_int8"], values["int8"]).text("+.2f")
        lines.append(f"| {' | '.join([*names, str(len(of_seeds)), *cells, gain])} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Run the program; returns the exit code, as those of `resnet-keras` are."""
    try:
        arguments = fill(Arguments, sys.argv[1:] if words is None else words, "python -m benchmarks.int8_accuracy")
        if arguments is None:
            return 0
        rows: list[dict[str, Any]] = []
        for name in arguments.recipes:
            for seed in arguments.seeds:
                rows += measure(arguments, name, seed)
                settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
                versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "resnet_keras": rk.__version__}
                result = {"settings": settings, "versions": versions, "rows": rows}
                write_text(arguments.output / "results.json", json_text(json.loads(json.dumps(result))) + "\n")
        print(markdown(rows))
    except UsageError as error:
        print(f"int8_accuracy: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
