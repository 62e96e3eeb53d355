"""The recipes: one function each. Its docstring has command, source, expected accuracy, cost and differences.

`docs/recipes.md` has each hyperparameter beside its source, by file and line.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.config.imagenet_recipes import (
    imagenet_a1,
    imagenet_a2,
    imagenet_a3,
    imagenet_he2015,
    imagenet_resnet50,
    imagenet_rs50,
    imagenet_v2,
)
from resnet_keras.config.layer_norm_recipes import (
    imagenet_convnext,
    imagenet_convnext_384,
    imagenet_deit,
    imagenet_deit3,
    imagenet_deit3_384,
    imagenet_deit_384,
)
from resnet_keras.config.train import AUTO, Optimizer, Schedule, TrainConfig
from resnet_keras.errors import unknown


def digits() -> TrainConfig:
    """ResNet-20 on the embedded handwritten digits (8x8, scikit-learn): the first thing to run.

    Command: resnet-keras train digits. Source: ours. Expected: 98 to 99 % of the 360 test images (README has what a
    run gave). Cost: half a minute on two CPU cores.
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

    Command: resnet-keras train cifar10-resnet20, and --model cifar_resnet32, cifar_plain20 and so on for its siblings.
    Source: He et al. 2015, section 4.2. Expected: 8.75 % error is published there (32: 7.51, 44: 7.17, 56: 6.97).
    Cost: the whole was not run by us. At a budget of a few epochs take cifar10-resnet20-short.
    Differs: Nesterov momentum, as in the authors' later code; a warm-up of a tenth of the run (the paper warms up its
    110 layers only), without which short runs depend on the seed by points; all 50,000 training images instead of
    45,000; one mean a channel instead of one a pixel; no decay of norms and biases. Like the paper, it starts the last
    gamma at one.
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


def cifar10_resnet20_short() -> TrainConfig:
    """ResNet-20 on CIFAR-10 at a budget of ten epochs: the paper's net and augmentation, one cycle for its steps.

    Command: resnet-keras train cifar10-resnet20-short. Source: the net is He et al. 2015's; one cycle is Smith 2018's.
    Expected: 84.3 % of CIFAR-10 (JPEG Q75) in one run. Cost: 15 to 18 minutes on two cores (docs/results/training.md).
    Differs from cifar10-resnet20: a tenth of the rate at half of ten epochs leaves the net few steps at a useful
    rate. So: up to 0.2 for a quarter of the run, then linearly down; decay 5e-4.
    """
    return dataclasses.replace(
        cifar10_resnet20(),
        name="cifar10-resnet20-short",
        epochs=10,
        optimizer=Optimizer(learning_rate=0.2, weight_decay=5e-4),
        schedule=Schedule(decay="linear", warmup=0.25),
    )


def cifar10_resnet110() -> TrainConfig:
    """ResNet-110 on CIFAR-10 by the paper's protocol, with its warm-up: 400 steps at 0.01.

    Command: resnet-keras train cifar10-resnet110. Source: He et al. 2015, section 4.2. Expected: 6.43 % error is
    published there (6.61 on average over five runs). Cost: not run by us.
    Differs: as cifar10-resnet20, but for the warm-up: the paper ends it when the training error is below 80 %, which is
    after about 400 steps.
    """
    return dataclasses.replace(
        cifar10_resnet20(),
        name="cifar10-resnet110",
        model="cifar_resnet110",
        schedule=Schedule(
            decay="step", milestones=(0.5, 0.75), warmup=1 / 160, warmup_from=0.1, warmup_shape="constant"
        ),
    )


def cifar10_preact() -> TrainConfig:
    """Pre-activation ResNet-164 on CIFAR-10: rate 0.1 after 400 steps at 0.01, divided by 10 at 32k and 48k of 64k.

    Command: resnet-keras train cifar10-preact; --model cifar_preact_resnet1001 --rematerialize --accumulation 4 for the
    thousand layers. Source: He et al. 2016, section 4 and appendix; the net is that of the authors' code,
    KaimingHe/resnet-1k-layers, resnet-pre-act.lua. Expected: 5.46 % error is published there (1001: 4.92, and 4.62 with
    batches of 64). Cost: not run by us.
    Differs: the head starts with He's weights, where Torch's are uniform.
    """
    config = cifar10_resnet110()
    optimizer = dataclasses.replace(config.optimizer, decayed="all")
    return dataclasses.replace(config, name="cifar10-preact", model="cifar_preact_resnet164", optimizer=optimizer)


def cifar10_wrn() -> TrainConfig:
    """Wide ResNet 28-10 on CIFAR-10: 200 epochs, rate 0.1, a fifth of it from the 60th, 120th and 160th epoch on.

    Command: resnet-keras train cifar10-wrn. Source: Zagoruyko & Komodakis 2016, section 3, and the authors' code,
    szagoruyko/wide-residual-networks: the rate falls when the 60th epoch begins, which is after 59, and the momentum
    starts anew. Expected: 4.00 % error is published there. Cost: not run by us; it needs a GPU.
    Differs: gammas start at one, where Torch's batch norm draws them from 0 to 1; the head starts with He's weights,
    where Torch's are uniform.
    """
    return TrainConfig(
        name="cifar10-wrn",
        model="cifar_wrn28_10",
        data="cifar10",
        epochs=200,
        batch_size=128,
        augmentation=Augmentation(crop="pad", pad=4, pad_fill="reflection", flip=True),
        zero_init_gamma=False,
        optimizer=Optimizer(learning_rate=0.1, weight_decay=5e-4, decayed="all"),
        schedule=Schedule(decay="step", milestones=(59 / 200, 119 / 200, 159 / 200), factor=0.2, reset_momentum=True),
    )


def cifar10_fast() -> TrainConfig:
    """Eight wide layers on CIFAR-10 in 17 epochs: one cycle, growing images, averaged weights, flip evaluation.

    Command: resnet-keras train cifar10-fast. Source: ours, of known parts: one cycle (Smith 2018), progressive
    resizing, label smoothing, a running average of the weights, the mean of a test image's and its mirror image's
    scores; a max-pool behind the stem, so that wide convolutions see small maps.
    Expected: 88.0 % of CIFAR-10 (JPEG Q75) in one run. Cost: 15 to 16 minutes on two cores (docs/results/training.md).
    Differs from cifar10-resnet20: everything but the data. Its accuracy is of two views of each test image: say so
    beside single-view figures.
    """
    return TrainConfig(
        name="cifar10-fast",
        model="cifar_resnet8_4",
        data="cifar10",
        train_sizes=(24, 28, 32, 32),
        test_every=4,
        test_flip=True,
        epochs=17,
        batch_size=256,
        augmentation=Augmentation(crop="pad", pad=2, flip=True),
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=0.5, weight_decay=5e-4),
        schedule=Schedule(decay="linear", warmup=0.25),
        ema=0.99,
        precision="mixed_bfloat16",
    )


def finetune() -> TrainConfig:
    """A network on a folder of your own images: the ResNet-20 that comes with the package, or --weights of your choice.

    Command: resnet-keras train finetune --data FOLDER, with --weights imagenet or --weights RUN for another start, and
    --budget 10m for what fits into ten minutes. Source: ours. Expected: that depends on the images; docs/results has an
    example. Cost: the same. Each block has 0.9 of the learning rate of the block behind it. --freeze stage3 --unfreeze
    stage3 0.3 trains the head first, --class-weights balanced helps with classes of unequal size.
    """
    return TrainConfig(
        name="finetune",
        model=AUTO,
        weights=AUTO,
        data="images",
        eval_crop=0.875,
        epochs=0,
        batch_size=32,
        augmentation=Augmentation(crop="resized", min_area=0.35, flip=True),
        optimizer=Optimizer(learning_rate=0.05, weight_decay=1e-4, layer_decay=0.9),
        schedule=Schedule(decay="cosine", warmup=0.1),
    )


RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "cifar10-resnet20": cifar10_resnet20,
    "cifar10-resnet20-short": cifar10_resnet20_short,
    "cifar10-resnet110": cifar10_resnet110,
    "cifar10-preact": cifar10_preact,
    "cifar10-wrn": cifar10_wrn,
    "cifar10-fast": cifar10_fast,
    "imagenet-he2015": imagenet_he2015,
    "imagenet-resnet50": imagenet_resnet50,
    "imagenet-a1": imagenet_a1,
    "imagenet-a2": imagenet_a2,
    "imagenet-a3": imagenet_a3,
    "imagenet-v2": imagenet_v2,
    "imagenet-rs50": imagenet_rs50,
    "imagenet-convnext": imagenet_convnext,
    "imagenet-convnext-384": imagenet_convnext_384,
    "imagenet-deit": imagenet_deit,
    "imagenet-deit-384": imagenet_deit_384,
    "imagenet-deit3": imagenet_deit3,
    "imagenet-deit3-384": imagenet_deit3_384,
    "finetune": finetune,
}
"""Recipe names, each with the function that makes its `TrainConfig`; `resnet-keras train` lists them.

Examples:
    >>> config = rk.RECIPES["cifar10-resnet20"]()
    >>> config.epochs, config.optimizer.learning_rate
    (164, 0.1)
"""


def recipe(name: str) -> TrainConfig:
    """The config of a recipe. Raises `UsageError` for an unknown name."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def recipe_summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (inspect.getdoc(RECIPES[name]) or "").splitlines()[0]
