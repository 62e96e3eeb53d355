"""How a network is trained: `TrainConfig` and the recipes. Standard library only.

A config is frozen: change it with `dataclasses.replace`. Times within a run (warm-up, milestones) are fractions of it,
so that another number of epochs stretches or shortens the whole schedule.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from resnet_keras.errors import UsageError, check_types, require, unknown


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training picture."""

    crop: Literal["none", "pad", "resized"] = "none"
    """none: the evaluation crop; pad: pad and crop back (small pictures); resized: a random part, resized (large)."""
    pad: int = 4
    """Pixels of mean colour on each side, for crop=pad."""
    min_area: float = 0.08
    """Least share of the picture's area that crop=resized keeps."""
    flip: bool = False
    """Mirror every other picture, left to right."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.pad >= 1, "pad", "at least 1", self.pad)
        require(0 < self.min_area <= 1, "min_area", "above 0 and at most 1", self.min_area)


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, and weight decay as the papers mean it."""

    learning_rate: float = 0.1
    """The peak; the schedule scales it."""
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    """Added to the gradient, before momentum, times the weight; kernels only, never biases, gammas and betas."""
    layer_decay: float = 1.0
    """The head learns at the full rate, each block before it at this share of the rate of the block that follows; 0.9
    or so for fine-tuning, 1 for one rate."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1", self.layer_decay)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        require(not self.nesterov or self.momentum > 0, "momentum", "above 0 with nesterov", self.momentum)


@dataclass(frozen=True)
class Schedule:
    """The learning rate along a run, as a factor of the peak."""

    decay: Literal["constant", "step", "linear", "cosine"] = "cosine"
    """After the warm-up: stay, fall at the milestones, or go to zero along a line or half a cosine."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """For decay=step: fractions of the run."""
    factor: float = 0.1
    """For decay=step: what each milestone multiplies the rate by."""
    warmup: float = 0.0
    """Fraction of the run in which the rate climbs from zero to the peak."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 <= self.warmup < 1, "warmup", "at least 0 and below 1 (a fraction of the run)", self.warmup)
        require(0 < self.factor <= 1, "factor", "above 0 and at most 1", self.factor)
        rising = sorted(set(self.milestones)) == list(self.milestones) and all(0 < m < 1 for m in self.milestones)
        require(rising, "milestones", "rising fractions of the run, between 0 and 1", self.milestones)


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run: the network, the data, the optimisation, the machine."""

    name: str = "run"
    """What the run folder and the model's card call this run."""
    model: str = "cifar_resnet20"
    """A name that `resnet-keras models` lists."""
    model_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Fields of ResNetSpec to change, as pairs: shortcut B se_ratio 0.0625."""
    zero_init_gamma: bool = True
    """Every residual block starts as the identity (plain nets: no effect)."""
    weights: str | None = None
    """What to start from: a run folder, a file of weights (.keras, .safetensors, .npz, .pth, .h5), imagenet for the
    published ones, or a name on the Hugging Face Hub. Their normalisation is taken over, a head of other classes is
    not. A .weights.h5 file must be of the very same network."""
    freeze: str | None = None
    """The last part that does not learn, such as stem, stage3 or stage3_block2; its norms stay as they are too."""
    data: str = "digits"
    """digits (embedded), a TensorFlow Datasets name such as cifar10, or a folder of class/file or split/class/file."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data; its own default when left out."""
    image_size: int | None = None
    """Side of the network's input; the data's own where all its pictures have one size."""
    eval_crop: float = 1.0
    """Share of the shorter side that evaluation's centre crop keeps."""
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    epochs: int = 10
    batch_size: int = 128
    """Pictures a step, over all devices together."""
    label_smoothing: float = 0.0
    seed: int = 0
    """Of the weights, the order and the augmentation: the same seed gives the same run."""
    run_dir: str | None = None
    """The run folder to make; runs/NAME-DATE-TIME when left out."""
    strategy: Literal["auto", "none", "mirrored"] = "auto"
    """auto: one device, or MirroredStrategy where there are several GPUs."""
    xla: Literal["auto", "on", "off"] = "auto"
    """auto: on for one GPU, off on CPU (where it halves the speed) and under MirroredStrategy (Keras cannot yet)."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(re.fullmatch(r"[\w.-]+", self.name)), "name", "letters, digits, dots and dashes", repr(self.name))
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.image_size is None or self.image_size >= 1, "image_size", "at least 1", self.image_size)
        require(0 < self.eval_crop <= 1, "eval_crop", "above 0 and at most 1", self.eval_crop)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1", self.label_smoothing)
        require(0 <= self.seed < 2**31, "seed", "at least 0 and below 2147483648", self.seed)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


def config_from_json(text: str, where: str = "the config") -> TrainConfig:
    """Read what `TrainConfig.to_json` wrote; fields left out have their defaults.

    Raises `UsageError` for anything else, naming `where` and the field.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from error
    return _from_dict(TrainConfig, values, where)


def _from_dict(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be a JSON object, not {type(values).__name__}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise unknown(f"field in {where}", name, hints)
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, f"{where}, {name}")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return kind(**arguments)


def digits() -> TrainConfig:
    """ResNet-20 on the embedded handwritten digits (8x8, scikit-learn): the first thing to run.

    Command: resnet-keras train digits. Source: ours.
    """
    return TrainConfig(
        name="digits",
        model="cifar_resnet20",
        data="digits",
        epochs=12,
        batch_size=64,
        augmentation=Augmentation(crop="pad", pad=1),
        optimizer=Optimizer(learning_rate=0.1, weight_decay=5e-4),
        schedule=Schedule(decay="cosine", warmup=0.1),
    )


def cifar10_resnet20() -> TrainConfig:
    """ResNet-20 on CIFAR-10 by the paper's protocol: 64,000 steps of 128, rate 0.1, divided by 10 at 32k and 48k.

    Command: resnet-keras train cifar10-resnet20. Source: He et al. 2015, section 4.2; 8.75 % error published there.
    Differs: Nesterov momentum, as in the authors' later code; a warm-up of a tenth of the run (the paper warms up its
    110 layers only), without which short runs depend on the seed by points; all 50,000 training pictures instead of
    45,000; one mean a channel instead of one a pixel. Alone among the recipes it starts the last gamma at one, as the
    paper did.
    """
    return TrainConfig(
        name="cifar10-resnet20",
        model="cifar_resnet20",
        data="cifar10",
        epochs=164,
        batch_size=128,
        augmentation=Augmentation(crop="pad", pad=4, flip=True),
        zero_init_gamma=False,
        optimizer=Optimizer(learning_rate=0.1, weight_decay=1e-4),
        schedule=Schedule(decay="step", milestones=(0.5, 0.75), warmup=0.1),
    )


def cifar10_fast() -> TrainConfig:
    """ResNet-20 on CIFAR-10 in ten epochs: one triangle of the learning rate, stronger decay.

    Command: resnet-keras train cifar10-fast. Source: the one-cycle policy, Smith 2018.
    """
    return TrainConfig(
        name="cifar10-fast",
        model="cifar_resnet20",
        data="cifar10",
        epochs=10,
        batch_size=128,
        augmentation=Augmentation(crop="pad", pad=4, flip=True),
        optimizer=Optimizer(learning_rate=0.2, weight_decay=5e-4),
        schedule=Schedule(decay="linear", warmup=0.25),
    )


def imagenet_resnet50() -> TrainConfig:
    """ResNet-50 (v1.5) on ImageNet in 90 epochs of steps; needs GPUs, and the data prepared by hand for TFDS.

    Command: resnet-keras train imagenet-resnet50 --data-dir DIR --precision mixed_bfloat16. Source: He et al. 2015,
    section 3.4, with the warm-up, Nesterov and initialisation of Goyal et al. 2017, section 5.1 (23.6 % top-1 error
    published there). Not run by us: it takes GPU days.
    """
    return TrainConfig(
        name="imagenet-resnet50",
        model="resnet50",
        data="imagenet2012",
        image_size=224,
        eval_crop=0.875,
        epochs=90,
        batch_size=256,
        augmentation=Augmentation(crop="resized", flip=True),
        optimizer=Optimizer(learning_rate=0.1, weight_decay=1e-4),
        schedule=Schedule(decay="step", milestones=(30 / 90, 60 / 90, 80 / 90), warmup=5 / 90),
    )


def finetune() -> TrainConfig:
    """ResNet-18 on a folder of your own pictures, from --weights where you have some.

    Command: resnet-keras train finetune --data FOLDER --weights RUN. Source: ours.
    """
    return TrainConfig(
        name="finetune",
        model="resnet18",
        data="images",
        image_size=128,
        eval_crop=0.875,
        epochs=10,
        batch_size=32,
        augmentation=Augmentation(crop="resized", min_area=0.35, flip=True),
        optimizer=Optimizer(learning_rate=0.02, weight_decay=1e-4),
        schedule=Schedule(decay="cosine", warmup=0.1),
    )


RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "cifar10-resnet20": cifar10_resnet20,
    "cifar10-fast": cifar10_fast,
    "imagenet-resnet50": imagenet_resnet50,
    "finetune": finetune,
}
"""Name to the function that makes the config; its docstring says source, command and how it differs."""


def recipe(name: str) -> TrainConfig:
    """The config of a recipe. Raises `UsageError` for an unknown name."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def recipe_summary(name: str) -> str:
    """The first line of a recipe's description."""
    return (inspect.getdoc(RECIPES[name]) or "").splitlines()[0]
