"""What an experiment compares and how its nets are trained: the flags of `degradation` and `experiment`."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_keras.config.recipes import recipe
from resnet_keras.config.train import Optimizer, Schedule, TrainConfig
from resnet_keras.errors import UsageError, require
from resnet_keras.models.registry import NAMES, named
from resnet_keras.models.spec import cifar_spec

DIGITS = TrainConfig(
    name="digits-narrow",
    data="digits",
    epochs=6,
    batch_size=64,
    zero_init_gamma=False,
    optimizer=Optimizer(learning_rate=0.05),
    schedule=Schedule(decay="cosine"),
)
"""For the embedded digits, with eight filters in the first stage: no augmentation, for the question is how well a net
learns its training images."""
PAPERS = 16
Network = Literal["resnet", "vit", "convnext"]
WIDTHS: dict[Network, tuple[int, int]] = {"resnet": (8, PAPERS), "vit": (32, 64), "convnext": (16, 32)}
"""On digits, and on other data."""
ADAM = Optimizer(learning_rate=0.006, algorithm="adam", weight_decay=0.0)
"""For nets with layer norm. No decay, so that what a gradient does is not mixed with what decay does."""
PATCH, HEADS = 4, 2


@dataclass(frozen=True)
class ExperimentConfig:
    """Which nets are compared, on which data, how often. One protocol for all the nets of an experiment."""

    network: Network = "resnet"
    """The nets: CIFAR's resnet, or with layer norm, vit or convnext, which gradients and norm-placement take."""
    depths: tuple[int, ...] = (20, 44)
    """Layers of the nets: 6n+2 of a resnet, any number of a vit (of attention and MLP each), 9n+4 of a convnext."""
    seeds: int = 3
    """Runs of each net."""
    seed: int = 0
    """Random seed of the first run; the next ones count on."""
    data: str = "digits"
    """digits (embedded), a TensorFlow Datasets name such as cifar10, or a folder."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    image_size: int | None = None
    """Side of the nets' input; the data's own where all its images have one size."""
    epochs: int | None = None
    """6 for digits, else those of the recipe cifar10-resnet20, when left out."""
    width: int | None = None
    """Filters of the first stage, channels of a vit's tokens. When left out, for digits 8, vit 32, convnext 16; else
    the paper's 16, vit 64, convnext 32."""
    batch_size: int | None = None
    """64 for digits, else 128, when left out."""
    learning_rate: float | None = None
    """When left out 0.05 for digits, else 0.1; 0.006, of Adam, for vit and convnext."""
    strategy: Literal["auto", "none", "mirrored", "tpu"] = "auto"
    """auto: mirrored if there are several GPUs, else one device."""
    xla: Literal["auto", "on", "off"] = "auto"
    """Compile the step with XLA. auto: on for GPUs and TPUs, off on CPU."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras dtype policy of the nets."""
    run_dir: str | None = None
    """The folder to make, or that of a stopped experiment, which is resumed; runs/NAME-DATE-TIME when left
    out."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def __post_init__(self) -> None:
        require(bool(self.depths), "depths", "at least one", "none")
        require(len(set(self.depths)) == len(self.depths), "depths", "different from one another", self.depths)
        for depth in self.depths:
            self._check(depth)
        # 0 has a meaning in a run, and none here.
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.width is None or self.width >= 2, "width", "at least 2", self.width)
        self.protocol()

    def _check(self, depth: int) -> None:
        """Raise `UsageError` for a depth, or a size, that no net has."""
        if self.network == "resnet":
            cifar_spec(depth)
            return
        if self.network == "convnext" and (depth < 13 or depth % 9 != 4):
            below = max(13, (depth - 4) // 9 * 9 + 4)
            raise UsageError(
                f"a convnext has 9n+4 layers here, so not {depth}; the nearest are {below} and {below + 9}"
            )
        model, options = layer_norm_net(self, depth)
        dataclasses.replace(named(model).spec, **options)  # type: ignore[type-var]

    def protocol(self) -> TrainConfig:
        """How every net is trained, but for the net itself and the seeds after the first."""
        base = DIGITS if self.data == "digits" else dataclasses.replace(recipe("cifar10-resnet20"), data=self.data)
        given = {name: getattr(self, name) for name in ("epochs", "batch_size") if getattr(self, name) is not None}
        if self.network != "resnet":
            # Of nets so small that a tenth of a step is the call from Python.
            base = dataclasses.replace(base, optimizer=ADAM, schedule=DIGITS.schedule, steps_per_execution=64)
        if self.learning_rate is not None:
            given["optimizer"] = dataclasses.replace(base.optimizer, learning_rate=self.learning_rate)
        same = ("data_dir", "image_size", "strategy", "xla", "precision", "seed")
        return dataclasses.replace(base, **given, **{name: getattr(self, name) for name in same})

    def nets(self, *makes: Callable[[int], "Net"]) -> list["Net"]:
        """A net of each kind at each depth, the shallow ones first."""
        return [make(depth) for depth in sorted(self.depths) for make in makes]

    @property
    def first_width(self) -> int:
        """Filters of the first stage, or channels of tokens."""
        return self.width or WIDTHS[self.network][self.data != "digits"]


@dataclass(frozen=True)
class Net:
    """A net of a comparison, with some fields of its spec changed: a CIFAR net (He et al. 2015, section 4.2), or of
    `layer_norm_net`."""

    kind: str
    """The group it is compared with the others in, such as plain or residual."""
    depth: int
    options: dict[str, Any] = field(default_factory=dict)
    warmup: float | None = None
    """The part of the run in which the rate rises; the protocol's own when left out."""

    @property
    def name(self) -> str:
        """Of its runs' folders."""
        return re.sub(r"[^\w.-]+", "-", f"{self.kind}-{self.depth}")

    def config(self, settings: ExperimentConfig, seed: int, run_dir: str) -> TrainConfig:
        """The run of this net with a seed."""
        model, options = self._model(settings)
        protocol = settings.protocol()
        changed: dict[str, Any] = {"zero_init_gamma": options.pop("zero_init_gamma", protocol.zero_init_gamma)}
        if self.warmup is not None:
            changed["schedule"] = dataclasses.replace(protocol.schedule, warmup=self.warmup)
        return dataclasses.replace(
            protocol, name=self.name, model=model, model_options=options, seed=seed, run_dir=run_dir, **changed
        )

    def _model(self, settings: ExperimentConfig) -> tuple[str, dict[str, Any]]:
        """The name of a model, and the fields of its spec to change."""
        if settings.network != "resnet":
            model, options = layer_norm_net(settings, self.depth)
            return model, options | self.options
        width, options = settings.first_width, dict(self.options)
        model = "cifar_plain" if options.get("shortcut") == "none" else "cifar_resnet"
        name = f"{model}{self.depth}"
        if name not in NAMES:
            name, blocks = f"{model}20", (self.depth - 2) // 6
            options["blocks"] = f"{blocks},{blocks},{blocks}"
        if width != PAPERS:
            options |= {"widths": f"{width},{2 * width},{4 * width}", "stem_width": width}
        return name, options


def layer_norm_net(settings: ExperimentConfig, depth: int) -> tuple[str, dict[str, Any]]:
    """A small ViT or ConvNeXt: the name of a model, and the fields of its spec to change.

    Kernels start by their fans: with a deviation of 0.02 such narrow branches would be next to nothing beside their
    shortcuts, wherever the norm is.
    """
    shared = {"initialization": "glorot", "layer_scale": 0.0, "stochastic_depth": 0.0}
    width = settings.first_width
    if settings.network == "vit":
        side = settings.image_size or (8 if settings.data == "digits" else 32)
        own = {"blocks": depth, "width": width, "heads": HEADS, "patch_size": PATCH, "image_size": side}
        return "vit_ti16", {**shared, **own}
    blocks = (depth - 4) // 9
    stages = {"blocks": f"{blocks},{blocks},{blocks}", "widths": f"{width},{2 * width},{4 * width}"}
    return "convnext_tiny", {**shared, **stages, "patch_size": 1, "kernel_size": 3}


def plain(depth: int) -> Net:
    """The plain twin: the same layers, nothing around them."""
    return Net("plain", depth, {"shortcut": "none"})


def residual(depth: int) -> Net:
    """The paper's net, whose shortcuts have no parameters either (A)."""
    return Net("residual", depth, {"shortcut": "A"})


def from_identity(depth: int) -> Net:
    """The residual net whose blocks start as the identity, the last gamma of each at zero (Goyal et al. 2017)."""
    return Net("residual from identity", depth, {"shortcut": "A", "zero_init_gamma": True})


def post_norm(depth: int) -> Net:
    """The first Transformer's order: the norm is on the shortcut's way, behind each sum."""
    return Net("post-norm", depth, {"norm_placement": "post"})


def pre_norm(depth: int) -> Net:
    """The norm is in the branch, and nothing is on the shortcut's way."""
    return Net("pre-norm", depth, {"norm_placement": "pre"})


def pre_norm_from_identity(depth: int) -> Net:
    """Pre-norm whose branches start at a millionth, by LayerScale (Touvron et al. 2021)."""
    return Net("pre-norm from identity", depth, {"norm_placement": "pre", "layer_scale": 1e-6})


def warmed_up(net: Net) -> Net:
    """The same net, whose rate rises during the first quarter of the run."""
    return dataclasses.replace(net, kind=f"{net.kind} with warm-up", warmup=0.25)
