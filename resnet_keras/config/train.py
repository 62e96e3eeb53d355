"""How a network is trained: `TrainConfig`. Standard library only.

A config is frozen: change it with `dataclasses.replace`. Times within a run (warm-up, milestones) are fractions of it,
so that the schedule follows the number of epochs.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.config.duration import seconds_of
from resnet_keras.errors import check_types, require

FORMAT_VERSION = 2
"""Of the JSON object. It rises when an older version of the package would misread it. 2: the bottlenecks of
cifar_preact_resnet164 and 1001 have their stride in the first 1x1, of version 1 in the 3x3."""
GIVEN = "given"
"""In place of the name of a model or of data that was handed over in Python."""
AUTO = "auto"
"""In place of a network or weights that the run chooses."""


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, or LAMB, with weight decay as in the papers; or an optimizer of Keras's.

    Examples:
        >>> optimizer = rk.Optimizer(learning_rate=1e-3, weight_decay=0.05, algorithm="adamw", layer_decay=0.9)
    """

    learning_rate: float = 0.1
    """Peak learning rate; the schedule scales it."""
    momentum: float = 0.9
    """Momentum of sgd, rmsprop and muon, first beta of the others."""
    nesterov: bool = True
    """For sgd and muon: Nesterov momentum."""
    weight_decay: float = 1e-4
    """Weight decay, added to the gradient before momentum (lamb: to the update before it is scaled). Of Keras's
    optimizers it is decoupled: each step takes rate times decay of the weight."""
    decayed: Literal["kernels", "biases", "all"] = "kernels"
    """What decays: kernels; kernels and biases; or all weights, the gammas and betas of norms too."""
    algorithm: Literal["sgd", "lamb", "adamw", "adam", "muon", "lion", "rmsprop"] = "sgd"
    """The optimizer; --optimizer is the same flag.
    lamb: Adam with updates scaled to the norm of each layer's weights (You et al. 2019), for large batches. adamw,
    adam, muon, lion and rmsprop are Keras's, with decoupled weight decay; Keras's muon moves matrices, of these
    networks the head, and all else as adamw."""
    beta2: float = 0.999
    """For lamb, adamw, adam, muon and lion: second beta; for rmsprop: rho."""
    epsilon: float = 0.0
    """For lamb, adamw, adam, muon and rmsprop: what is added to the size of the gradients that divides them; 0 for the
    optimizer's own, 1e-6 of lamb and 1e-7 of the others."""
    no_decay: tuple[str, ...] = ()
    """Layers without weight decay: names or shell patterns, such as logits or stage1_*."""
    layer_decay: float = 1.0
    """Layer-wise decay of the learning rate: the head has the full rate, each block before it this fraction of the rate
    of the next one. About 0.9 for fine-tuning; 1 for one rate."""
    clip_norm: float = 0.0
    """Greatest global norm of the gradient; a greater one is scaled down. 0 for no clipping."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1", self.layer_decay)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        require(0 <= self.beta2 < 1, "beta2", "at least 0 and below 1", self.beta2)
        require(self.epsilon >= 0, "epsilon", "at least 0", self.epsilon)
        without = self.epsilon and self.algorithm in ("sgd", "lion")
        require(not without, "epsilon", f"0 with {self.algorithm}", self.epsilon)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        require(self.clip_norm >= 0, "clip_norm", "at least 0", self.clip_norm)
        wrong = self.algorithm == "sgd" and self.nesterov and not self.momentum
        require(not wrong, "momentum", "above 0 with nesterov", self.momentum)


@dataclass(frozen=True)
class Schedule:
    """The learning rate schedule, as a factor of the peak.

    Examples:
        >>> schedule = rk.Schedule(decay="step", milestones=(0.5, 0.75), warmup=0.05)
    """

    decay: Literal["constant", "step", "linear", "poly", "cosine"] = "cosine"
    """After the warm-up: constant, divided at the milestones, linear, polynomial or half a cosine. One cycle is a long
    warm-up before linear or cosine."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """For decay=step: fractions of the run."""
    factor: float = 0.1
    """For decay=step: factor of the rate at each milestone."""
    reset_momentum: bool = False
    """For decay=step and sgd: start the momentum from zero at each milestone, as Wide ResNet's code."""
    power: float = 2.0
    """For decay=poly: exponent of the remaining fraction of the run."""
    warmup: float = 0.0
    """Fraction of the run in which the rate rises to the peak."""
    warmup_from: float = 0.0
    """Fraction of the peak at which the warm-up starts."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """linear: rise to the peak; constant: stay at warmup_from until the warm-up ends."""
    warmup_prefix: bool = True
    """Count the decay from the end of the warm-up; False: from the first step, of which the warm-up then hides the
    beginning, as in timm."""
    floor: float = 0.0
    """Fraction of the peak at which linear, poly and cosine end."""

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
        require(not self.reset_momentum or self.decay == "step", "decay", "step with reset_momentum", self.decay)


@dataclass(frozen=True)
class TrainConfig:
    """A training run: network, data, optimization and devices.

    Raises:
        UsageError: (a ValueError) for a field of another type or out of range; it names the field.

    Examples:
        >>> config = rk.TrainConfig(model="cifar_resnet20", data="cifar10", epochs=10)
        >>> config = dataclasses.replace(config, optimizer=rk.Optimizer(learning_rate=0.2), ema=0.99)
        >>> config.schedule.decay
        'cosine'
    """

    name: str = "run"
    """Name of the run in the run folder and on the model card."""
    model: str = "cifar_resnet20"
    """Name of a model; `resnet-keras models` lists them. auto: the one that the weights are of, or ResNet-20."""
    model_options: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Fields of the model's spec to change, as pairs: shortcut B se_ratio 0.0625."""
    zero_init_gamma: bool = True
    """Start every residual block as the identity (no effect on plain networks)."""
    weights: str | None = None
    """Weights to start from: a run folder, a file (.keras, .safetensors, .npz, .pth, .h5), imagenet for the published
    ones, a name on the Hugging Face Hub (owner/name, or hf://owner/name@revision, which asks for the newest), or
    cifar10-jpeg, which comes with the package. Their normalisation is kept; a head of other classes is not. A
    .weights.h5 file must be of the same network. auto: cifar10-jpeg where the network is its own; none for another.
    None for random weights."""
    freeze: str | None = None
    """Last part to freeze, with its norms: such as stem, stage3 or stage3_block2."""
    unfreeze: dict[str, float] = field(default_factory=dict)
    """When to unfreeze parts, with all layers after them, as pairs of part and fraction of the run: stage3 0.3 stage2
    0.6. Their norms are trained then too, unless freeze_norms is on."""
    freeze_norms: bool = False
    """Freeze every norm: batch_stats, gamma and beta."""
    data: str = "digits"
    """digits (embedded), a TensorFlow Datasets name such as cifar10, a folder of class/file or split/class/file, or a
    .csv or .parquet file of the columns image, label (several as cat|dog) and, if it likes, split."""
    data_dir: str | None = None
    """Folder of TensorFlow Datasets; its own default when left out."""
    skip_damaged: bool = False
    """Leave out the image files of --data that cannot be read, naming them, instead of refusing the data."""
    data_service: str | None = None
    """Address of a tf.data service dispatcher, such as grpc://host:5000, whose workers prepare the batches. They come
    in the order in which they are ready, so the run does not repeat to the last bit."""
    validation: float | None = None
    """Fraction of the training images held out for validation: they are measured after each epoch, the epoch that is
    best on them is the run's result, and the test split is measured once, at its end. When left out a tenth for a
    folder, unless it has val/ beside test/, and none for other data. 0 for none: the last epoch is the result, and the
    test split is measured after each epoch, to be seen and for nothing else."""
    patience: int = 0
    """Epochs without a better one on the validation images after which the run ends; 0 for never."""
    final_test: bool = True
    """Measure the test split at the end. Without, the result is the last epoch, measured on the validation images: to
    choose between configs without a look at the test split, as a search does."""
    calibrate: bool = False
    """Fit a temperature on the validation images at the end (Guo et al. 2017), so that confidence is as accuracy. No
    prediction changes; probabilities and losses do."""
    image_size: int | None = None
    """Size of the network's input in pixels; that of the images when left out and all have one size."""
    train_sizes: tuple[int, ...] = ()
    """Sizes of the training images in pixels, each for an equal part of the epochs: 128 160 192 for progressive
    resizing, 160 alone to train below image_size. Evaluation is at image_size."""
    eval_crop: float = 1.0
    """Fraction of the shorter side that the centre crop of evaluation keeps."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of evaluation's resizing."""
    test_every: int = 1
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""
    test_flip: bool = False
    """Evaluate on the mean scores of an image and its mirror image; predict and export do not."""
    augmentation: Augmentation = Augmentation()
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Softmax cross-entropy, or binary cross-entropy of each class (Wightman et al. 2021), which data of several labels
    an image have in any case."""
    label_smoothing: float = 0.0
    """Label smoothing: this much of each label is spread over all classes."""
    target_threshold: float = 0.0
    """For loss=sigmoid: a class with more than this part of a smoothed and mixed label has the target 1, any other 0,
    as in timm's code; 0 keeps the labels."""
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    """Weight of the loss of each class. balanced: by its inverse frequency, images / (classes * images of the class);
    or pairs of class and weight, such as cat 2 dog 0.5, where a class that is not named has 1."""
    teacher: str | None = None
    """Distillation: a trained network whose outputs for each training image are learned beside its label. A run folder,
    a .keras file, cifar10-jpeg, or hf://owner/name. It needs the classes of the data, and loss softmax."""
    distillation: Literal["soft", "hard"] = "soft"
    """soft: the Kullback-Leibler divergence from the teacher's probabilities at distillation_temperature, times its
    square (Hinton et al. 2015, section 2); hard: cross-entropy with the teacher's likeliest class (Touvron et al. 2020,
    equation 3)."""
    distillation_weight: float = 0.5
    """Share of the teacher's term in the loss, 0 to 1; the labels' term has the rest. 0.5 as Touvron et al. 2020 in
    equation 3; they take 0.1 for soft."""
    distillation_temperature: float = 3.0
    """For distillation=soft: what the logits of both networks are divided by. 3 as Touvron et al. 2020, section 6."""
    quantize: Literal["int8"] | None = None
    """int8: train on from --weights as the int8 export computes, in float32 with its rounding (quantization-aware
    training, Jacob et al. 2018), and evaluate so; the export then takes the ranges of the training. Norms keep their
    batch_stats. A tenth of the rate of the first training or less, for a few epochs."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    epochs: int = 10
    """0: as many as the images call for, about 700 steps."""
    budget: str | None = None
    """Time for the whole run, such as 10m or 1h: image size and epochs are chosen so that it fits, by some steps that
    are run first; epochs is not looked at."""
    batch_size: int = 128
    """Global batch size: images per step over all devices."""
    accumulation: int = 1
    """Gradient accumulation: parts of a batch that a device computes one after the other, to save memory. Batch norm
    sees one part at a time; learning rate, schedule and averages follow steps."""
    rematerialize: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: less memory, more time."""
    ema: float = 0.0
    """Decay of the running average of weights and batch_stats, which is evaluated and saved; 0 for none. At the start
    it is (1 + steps) / (10 + steps), where that is less."""
    precise_bn: int = 0
    """Training images over which batch_stats are recomputed at the end; 0 for none."""
    seed: int = 0
    """Random seed of weights, order and augmentation: the same seed gives the same run."""
    run_dir: str | None = None
    """Run folder: a new one, or that of a stopped run, which resumes; a new runs/NAME-DATE-TIME when left out.
    s3://BUCKET/RUN and gs://BUCKET/RUN are remote folders."""
    checkpoint_steps: int = 1000
    """Steps between checkpoints; each epoch ends with one too."""
    keep_checkpoints: int = 2
    """Checkpoints to keep, besides the best model."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """When the loss is NaN or infinite: stop, or resume from the last checkpoint at half the learning rate."""
    profile: str | None = None
    """First and last step to profile for TensorBoard, such as 10:20."""
    strategy: Literal["auto", "none", "mirrored", "multiworker", "tpu"] = "auto"
    """auto: multiworker if TF_CONFIG names several workers, mirrored if there are several GPUs, else one device."""
    xla: Literal["auto", "on", "off"] = "auto"
    """Compile the step with XLA. auto: on for GPUs and TPUs, off on CPU, where it halves the speed."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy of the network."""
    gradients: Literal["float32", "bfloat16"] = "float32"
    """What gradients are summed in between devices. bfloat16: half the bytes on the network, rounded to 8 bits."""
    steps_per_execution: int = 1
    """Steps per call from Python: fewer pauses on fast devices."""

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(re.fullmatch(r"[\w.-]+", self.name)), "name", "letters, digits, dots and dashes", repr(self.name))
        for name in (
            "test_every",
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
        require(self.epochs >= 0, "epochs", "at least 1, or 0 for as many as the images call for", self.epochs)
        require(
            sizes <= (self.epochs or sizes),
            "train_sizes",
            f"at most one an epoch, of which there are {self.epochs}",
            sizes,
        )
        require(0 <= (self.validation or 0) < 1, "validation", "at least 0 and below 1", self.validation)
        require(self.patience >= 0, "patience", "at least 0", self.patience)
        require(not self.patience or self.validation != 0, "patience", "0 without validation images", self.patience)
        require(self.final_test or self.validation != 0, "final_test", "on without validation images", "off")
        require(not self.calibrate or self.validation != 0, "calibrate", "off without validation images", "on")
        require(0 < self.eval_crop <= 1, "eval_crop", "above 0 and at most 1", self.eval_crop)
        for name in ("label_smoothing", "target_threshold", "ema"):
            require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        require(self.loss == "sigmoid" or not self.target_threshold, "target_threshold", "0 with loss softmax", "more")
        for label, weight in self.class_weights.items() if isinstance(self.class_weights, dict) else ():
            good = isinstance(weight, int | float) and 0 <= weight < float("inf")
            require(good, f"class_weights {label}", "at least 0", weight)
        require(self.teacher is None or self.loss == "softmax", "loss", "softmax with a teacher", self.loss)
        weight, temperature = self.distillation_weight, self.distillation_temperature
        require(0 <= weight <= 1, "distillation_weight", "between 0 and 1", weight)
        require(temperature > 0, "distillation_temperature", "above 0", temperature)
        self._check_quantize()
        resets, algorithm = self.schedule.reset_momentum, self.optimizer.algorithm
        require(not resets or algorithm == "sgd", "algorithm", "sgd with reset_momentum", algorithm)
        for part, start in self.unfreeze.items():
            good = isinstance(start, int | float) and 0 < start < 1
            require(good, f"unfreeze {part}", "a fraction of the run, between 0 and 1", start)
        require(not self.unfreeze or self.freeze is not None, "freeze", "given with unfreeze", self.freeze)
        require(self.precise_bn >= 0, "precise_bn", "at least 0", self.precise_bn)
        require(0 <= self.seed < 2**31, "seed", "at least 0 and below 2147483648", self.seed)
        seconds_of(self.budget)
        if self.profile is not None:
            first, _, last = self.profile.partition(":")
            good = first.isdecimal() and last.isdecimal() and int(first) <= int(last)
            require(good, "profile", "two steps, such as 10:20", repr(self.profile))

    def _check_quantize(self) -> None:
        if self.quantize is None:
            return
        kept = {"precision": ("float32", self.precision != "float32"), "precise_bn": ("0", self.precise_bn)}
        kept |= {"train_sizes": ("left out", self.train_sizes), "rematerialize": ("off", self.rematerialize)}
        kept |= {"strategy": ("auto, none or mirrored", self.strategy in ("multiworker", "tpu"))}
        for name, (rule, other) in kept.items():
            require(not other, name, f"{rule} with quantize", getattr(self, name))

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
    "budget",
}
"""Fields that may change when a run resumes: they do not change its results."""


def flat(config: Any) -> dict[str, Any]:
    """The fields of a config and of the dataclasses in it, by name; no two have the same."""
    fields: dict[str, Any] = {}
    for name, value in vars(config).items():
        fields |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return fields


def differences(config: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The fields that differ between two configs and change the results, with both values."""
    one, two = flat(config), flat(other)
    return {name: (one[name], two[name]) for name in one if name not in OPERATIONAL and one[name] != two[name]}
