"""How a network is trained: `TrainConfig`. Standard library only.

A config is frozen: change it with `dataclasses.replace`. Times within a run (warm-up, milestones) are fractions of it,
so that another number of epochs stretches or shortens the whole schedule.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from resnet_keras.errors import UsageError, check_types, is_whole, require, unknown
from resnet_keras.version import __version__

FORMAT_VERSION = 1
"""Of the JSON object. It rises when an older version of the package would misread it."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image, in this order; each image draws its own."""

    crop: Literal["none", "pad", "resized", "scale"] = "none"
    """none: the evaluation crop; pad: pad and crop back (small images); resized: a random part, resized (large);
    scale: resize the shorter side at random and cut out (He et al. 2015)."""
    pad: int = 4
    """Pixels of mean colour on each side, for crop=pad."""
    min_area: float = 0.08
    """Least share of the image's area that crop=resized keeps."""
    scale_range: tuple[float, ...] = (256 / 224, 480 / 224)
    """For crop=scale: the shorter side, in sides of the network's input, least and most."""
    flip: bool = False
    """Mirror every other image, left to right."""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """randaugment: some operations of one strength (Cubuk et al. 2019); trivialaugment: one operation of any strength
    (Mueller & Hutter 2021)."""
    operations: int = 2
    """For randaugment: operations an image."""
    magnitude: float = 9.0
    """For randaugment: the strength, 0 to 10."""
    magnitude_std: float = 0.0
    """For randaugment: deviation of the strength from one operation to the next."""
    operation_probability: float = 1.0
    """For randaugment: chance that a drawn operation is applied."""
    jitter: float = 0.0
    """Brightness, contrast and saturation are each scaled by 1 - jitter to 1 + jitter."""
    lighting: float = 0.0
    """Deviation of a step along the principal components of ImageNet's colours (Krizhevsky et al. 2012: 0.1)."""
    erasing: float = 0.0
    """Chance that a rectangle becomes noise (Zhong et al. 2017)."""
    mixup: float = 0.0
    """Alpha of MixUp's beta distribution, which blends images in pairs (Zhang et al. 2017); 0 for none."""
    cutmix: float = 0.0
    """Alpha of CutMix's, which pastes a part of one into the other (Yun et al. 2019); 0 for none. With both, each batch
    takes one of them by the toss of a coin."""
    mix_probability: float = 1.0
    """Chance that a batch is mixed at all."""
    repeats: int = 1
    """Times that an image is in a batch, each time changed anew (Hoffer et al. 2019; Berman et al. 2019). An epoch has
    as many steps as without, so it sees that much fewer images."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.pad >= 1, "pad", "at least 1", self.pad)
        require(0 < self.min_area <= 1, "min_area", "above 0 and at most 1", self.min_area)
        sides = self.scale_range
        require(len(sides) == 2 and 1 <= sides[0] <= sides[1], "scale_range", "two rising numbers from 1", sides)
        require(self.operations >= 1, "operations", "at least 1", self.operations)
        require(0 <= self.magnitude <= 10, "magnitude", "between 0 and 10", self.magnitude)
        require(self.magnitude_std >= 0, "magnitude_std", "at least 0", self.magnitude_std)
        require(0 <= self.jitter < 1, "jitter", "at least 0 and below 1", self.jitter)
        for name in ("operation_probability", "erasing", "mix_probability"):
            require(0 <= getattr(self, name) <= 1, name, "between 0 and 1", getattr(self, name))
        for name in ("lighting", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(self.repeats >= 1, "repeats", "at least 1", self.repeats)

    @property
    def mixes(self) -> bool:
        """Whether an image takes something of another one, labels too."""
        return bool(self.mixup or self.cutmix) and self.mix_probability > 0


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum or LAMB, with weight decay as the papers mean it."""

    learning_rate: float = 0.1
    """The peak; the schedule scales it."""
    momentum: float = 0.9
    """SGD's momentum, LAMB's first beta."""
    nesterov: bool = True
    """For sgd."""
    weight_decay: float = 1e-4
    """Times the weight, added to the gradient before momentum (lamb: to the step before it is scaled); kernels only,
    never biases, gammas and betas."""
    algorithm: Literal["sgd", "lamb"] = "sgd"
    """lamb: Adam whose step is as long as a layer's weights (You et al. 2019), for large batches."""
    beta2: float = 0.999
    """For lamb: the second beta."""
    no_decay: tuple[str, ...] = ()
    """Layers whose kernels do not decay either: names or shell patterns, such as logits or stage1_*."""
    layer_decay: float = 1.0
    """The head learns at the full rate, each block before it at this share of the rate of the block that follows; 0.9
    or so for fine-tuning, 1 for one rate."""
    clip_norm: float = 0.0
    """Longest gradient of all weights together; a longer one is scaled down. 0 for any."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1", self.layer_decay)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        require(0 <= self.beta2 < 1, "beta2", "at least 0 and below 1", self.beta2)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        require(self.clip_norm >= 0, "clip_norm", "at least 0", self.clip_norm)
        wrong = self.algorithm == "sgd" and self.nesterov and not self.momentum
        require(not wrong, "momentum", "above 0 with nesterov", self.momentum)


@dataclass(frozen=True)
class Schedule:
    """The learning rate along a run, as a factor of the peak."""

    decay: Literal["constant", "step", "linear", "poly", "cosine"] = "cosine"
    """After the warm-up: stay, fall at the milestones, or go down along a line, a power of it or half a cosine. One
    cycle is a long warm-up before linear or cosine."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """For decay=step: fractions of the run."""
    factor: float = 0.1
    """For decay=step: what each milestone multiplies the rate by."""
    power: float = 2.0
    """For decay=poly: of the share of the run that is left."""
    warmup: float = 0.0
    """Fraction of the run in which the rate climbs to the peak."""
    warmup_from: float = 0.0
    """Share of the peak at which the warm-up starts."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """constant: stay at warmup_from and jump at the warm-up's end."""
    floor: float = 0.0
    """Share of the peak at which linear, poly and cosine end."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 <= self.warmup < 1, "warmup", "at least 0 and below 1 (a fraction of the run)", self.warmup)
        require(0 < self.factor <= 1, "factor", "above 0 and at most 1", self.factor)
        require(self.power > 0, "power", "above 0", self.power)
        rising = sorted(set(self.milestones)) == list(self.milestones) and all(0 < m < 1 for m in self.milestones)
        require(rising, "milestones", "rising fractions of the run, between 0 and 1", self.milestones)
        for name in ("warmup_from", "floor"):
            require(0 <= getattr(self, name) <= 1, name, "between 0 and 1", getattr(self, name))
        stuck = self.warmup > 0 and self.warmup_shape == "constant" and not self.warmup_from
        require(not stuck, "warmup_from", "above 0 with warmup_shape constant", self.warmup_from)


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
    published ones, a name on the Hugging Face Hub, or cifar10-jpeg, which comes with the package. Their normalisation
    is taken over, a head of other classes is not. A .weights.h5 file must be of the very same network."""
    freeze: str | None = None
    """The last part that does not learn, such as stem, stage3 or stage3_block2; its norms stay as they are too."""
    unfreeze: dict[str, float] = field(default_factory=dict)
    """When frozen parts start to learn, with all behind them, as pairs of part and fraction of the run: stage3 0.3
    stage2 0.6. Their norms stay as they are."""
    freeze_norms: bool = False
    """Every norm stays as it is: statistics, gamma and beta."""
    data: str = "digits"
    """digits (embedded), a TensorFlow Datasets name such as cifar10, or a folder of class/file or split/class/file."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data; its own default when left out."""
    data_service: str | None = None
    """Address of a tf.data service dispatcher, such as grpc://host:5000, whose workers prepare the batches. They come
    in the order in which they are ready: such a run does not repeat to the last bit."""
    validation: float = 0.0
    """Share of the training images that are held out and tested on instead of the test split: to choose between
    configs without a look at it. 0 for none."""
    image_size: int | None = None
    """Side of the network's input; the data's own where all its images have one size."""
    train_sizes: tuple[int, ...] = ()
    """Sides of the training images, one after the other, each for an equal share of the epochs: 128 160 192 for
    progressive resizing, 160 alone to train below image_size. Testing is at image_size."""
    eval_crop: float = 1.0
    """Share of the shorter side that evaluation's centre crop keeps."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How evaluation resizes."""
    test_every: int = 1
    """Epochs from one test to the next; the last epoch is tested whatever it is."""
    test_flip: bool = False
    """Evaluation takes the mean of an image's scores and its mirror image's; predict and export do not."""
    augmentation: Augmentation = Augmentation()
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy of one choice among the classes, or of a yes or no for each class (Wightman et al. 2021)."""
    label_smoothing: float = 0.0
    target_threshold: float = 0.0
    """For loss=sigmoid: each class with more than this share of a mixed label is a yes, smoothed as any other; 0 leaves
    shares as they are."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class counts as its images are rare, so that all classes count the same."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    epochs: int = 10
    batch_size: int = 128
    """Images a step, over all devices together."""
    accumulation: int = 1
    """Parts that a device computes its share of a batch in, one after the other, to save memory. Batch norm sees the
    parts; rate, schedule and averages follow steps."""
    rematerialize: bool = False
    """Compute each block again in the backward pass instead of keeping what is inside it: less memory, more time."""
    ema: float = 0.0
    """Decay of a running average of weights and batch norm statistics, which is what is tested and saved; 0 for none.
    Early on it is (1 + steps) / (10 + steps), where that is less."""
    precise_bn: int = 0
    """Training images over which the statistics of batch norm are computed anew at the end; 0 for none."""
    seed: int = 0
    """Of the weights, the order and the augmentation: the same seed gives the same run."""
    run_dir: str | None = None
    """The run folder: a new one, or that of a run that was stopped, which goes on; runs/NAME-DATE-TIME when left out,
    always new."""
    checkpoint_steps: int = 1000
    """Steps from one checkpoint to the next; the end of an epoch has one too."""
    keep_checkpoints: int = 2
    """Checkpoints to keep, beside the best model."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """When the loss is no number: stop, or go on from the last checkpoint at half the learning rate."""
    profile: str | None = None
    """Steps to profile for TensorBoard, first and last, such as 10:20."""
    strategy: Literal["auto", "none", "mirrored", "multiworker", "tpu"] = "auto"
    """auto: multiworker where TF_CONFIG names several, mirrored where there are several GPUs, else one device."""
    xla: Literal["auto", "on", "off"] = "auto"
    """auto: on for GPUs and TPUs, off on CPU, where it halves the speed."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    steps_per_execution: int = 1
    """Steps that run without a look from Python: fewer pauses for fast devices."""

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(re.fullmatch(r"[\w.-]+", self.name)), "name", "letters, digits, dots and dashes", repr(self.name))
        for name in (
            "test_every",
            "epochs",
            "batch_size",
            "accumulation",
            "checkpoint_steps",
            "keep_checkpoints",
            "steps_per_execution",
        ):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.image_size is None or self.image_size >= 1, "image_size", "at least 1", self.image_size)
        require(all(size >= 1 for size in self.train_sizes), "train_sizes", "at least 1", self.train_sizes)
        sizes = len(self.train_sizes)
        require(sizes <= self.epochs, "train_sizes", f"at most one an epoch, of which there are {self.epochs}", sizes)
        require(0 <= self.validation < 1, "validation", "at least 0 and below 1", self.validation)
        require(0 < self.eval_crop <= 1, "eval_crop", "above 0 and at most 1", self.eval_crop)
        for name in ("label_smoothing", "target_threshold", "ema"):
            require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        require(self.loss == "sigmoid" or not self.target_threshold, "target_threshold", "0 with loss softmax", "more")
        for part, start in self.unfreeze.items():
            good = isinstance(start, int | float) and 0 < start < 1
            require(good, f"unfreeze {part}", "a fraction of the run, between 0 and 1", start)
        require(not self.unfreeze or self.freeze is not None, "freeze", "given with unfreeze", self.freeze)
        require(self.precise_bn >= 0, "precise_bn", "at least 0", self.precise_bn)
        require(0 <= self.seed < 2**31, "seed", "at least 0 and below 2147483648", self.seed)
        if self.profile is not None:
            first, _, last = self.profile.partition(":")
            good = first.isdecimal() and last.isdecimal() and int(first) <= int(last)
            require(good, "profile", "two steps, such as 10:20", repr(self.profile))

    def to_json(self) -> str:
        """The config as a JSON object, with the version of its format."""
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=2)


OPERATIONAL = {
    "test_every",
    "run_dir",
    "data_dir",
    "data_service",
    "checkpoint_steps",
    "keep_checkpoints",
    "on_nan",
    "profile",
    "steps_per_execution",
}
"""Fields that may change when a run goes on: they do not change what it computes."""


def flat(config: Any) -> dict[str, Any]:
    """The fields of a config and of the dataclasses in it, by name; no two have the same."""
    fields: dict[str, Any] = {}
    for name, value in vars(config).items():
        fields |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return fields


def differences(config: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs describe different results, with both values."""
    one, two = flat(config), flat(other)
    return {name: (one[name], two[name]) for name in one if name not in OPERATIONAL and one[name] != two[name]}


def config_from_json(text: str, where: str = "the config") -> TrainConfig:
    """The config that `TrainConfig.to_json` wrote; fields left out have their defaults.

    Raises `UsageError`, which names `where` and the field, for anything else and for a later version of the format.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}") from error
    if isinstance(values, dict):
        version = values.pop("format_version", 1)  # files of 0.1 have none
        require(is_whole(version) and version >= 1, f"{where}, format_version", "a whole number from 1", repr(version))
        if version > FORMAT_VERSION:
            raise UsageError(
                f"{where} has format_version {version}, and resnet-keras {__version__} reads up to {FORMAT_VERSION}; "
                f"it needs a later version: pip install --upgrade resnet-keras"
            )
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
