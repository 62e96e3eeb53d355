"""The recipes for ImageNet, in the table of `recipes.py`."""

import dataclasses

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.config.train import Optimizer, Schedule, TrainConfig


def imagenet_he2015() -> TrainConfig:
    """ResNet-50 (v1) on ImageNet as the paper trained it: 600,000 steps of 256, random scales, colours shifted.

    Command: resnet-keras train imagenet-he2015 --data-dir DIR. Source: He et al. 2015, section 3.4, and the notes on
    the released models, which have true averages for batch norm. Expected: 24.7 % top-1 error of one crop is published
    with the models. Cost: not run by us; GPU weeks in its time.
    Differs: the rate falls at fixed quarters of the run, where the paper waited for the error to stand still; one mean
    a channel.
    """
    return TrainConfig(
        name="imagenet-he2015",
        model="resnet50_v1",
        data="imagenet2012",
        image_size=224,
        eval_crop=0.875,
        epochs=120,
        batch_size=256,
        augmentation=Augmentation(crop="scale", flip=True, lighting=0.1),
        zero_init_gamma=False,
        optimizer=Optimizer(learning_rate=0.1, nesterov=False, weight_decay=1e-4, decayed="all"),
        schedule=Schedule(decay="step", milestones=(0.25, 0.5, 0.75)),
        precise_bn=50_000,
    )


def imagenet_resnet50() -> TrainConfig:
    """ResNet-50 (v1.5) on ImageNet in 90 epochs of steps: the usual baseline.

    Command: resnet-keras train imagenet-resnet50 --data-dir DIR --precision mixed_bfloat16; the data are prepared by
    hand for TensorFlow Datasets. Source: Goyal et al. 2017, section 5.1, with batches of 256, which need no warm-up;
    for 8,192 it has --learning-rate 3.2 --warmup 0.0556 --warmup-from 0.03125, five epochs from 0.1 on. Expected:
    23.60 % top-1 error is published there. Cost: not run by us; GPU days.
    Differs: batch norm is over a device's part of a batch, 256 images on one device, where the paper has 32 images on
    each of eight; --accumulation 8 does the same on one.
    """
    return TrainConfig(
        name="imagenet-resnet50",
        model="resnet50",
        model_options={"head_std": 0.01},
        data="imagenet2012",
        image_size=224,
        eval_crop=0.875,
        epochs=90,
        batch_size=256,
        augmentation=Augmentation(crop="resized", flip=True),
        optimizer=Optimizer(learning_rate=0.1, weight_decay=1e-4, decayed="biases"),
        schedule=Schedule(decay="step", milestones=(30 / 90, 60 / 90, 80 / 90)),
    )


def _strikes_back(name: str, epochs: int, rate: float, decay: float, mixup: float, magnitude: float) -> TrainConfig:
    """The common settings of A1, A2 and A3 (Wightman et al. 2021, Table 2)."""
    return TrainConfig(
        name=name,
        model="resnet50",
        data="imagenet2012",
        image_size=224,
        eval_crop=0.95,
        interpolation="bicubic",
        epochs=epochs,
        batch_size=2048,
        augmentation=Augmentation(
            crop="resized",
            crop_interpolation="random",
            flip=True,
            policy="randaugment-increasing",
            operations=2,
            magnitude=magnitude,
            magnitude_std=0.5,
            operation_probability=0.5,
            mixup=mixup,
            cutmix=1.0,
        ),
        loss="sigmoid",
        target_threshold=0.2,
        optimizer=Optimizer(rate, weight_decay=decay, algorithm="lamb", clip_norm=1.0),
        schedule=Schedule(
            decay="cosine", warmup=5 / epochs, warmup_from=1e-4 / rate, warmup_prefix=False, floor=1e-6 / rate
        ),
    )


def imagenet_a1() -> TrainConfig:
    """ResNet-50 by "ResNet strikes back" A1: 600 epochs of LAMB, binary cross-entropy, MixUp and CutMix.

    Command: resnet-keras train imagenet-a1 --data-dir DIR --precision mixed_bfloat16 --accumulation N, for a batch of
    2,048 images. Source: Wightman et al. 2021, Table 2, and timm's code for what the table leaves open (the gradient
    clipped at 1, mixed labels above 0.2 have the target 1). Expected: 80.4 % top-1 is published there. Cost: not run by
    us; the paper's took 110 hours on four V100.
    Differs: the rate falls with each step, not each epoch; the policy warps bilinearly, where timm draws bilinear or
    bicubic; images are mixed with their neighbours in the batch, where timm turns the batch round. Labels are smoothed
    before the threshold, as in timm's code, which leaves 0 and 1.
    """
    config = _strikes_back("imagenet-a1", 600, 5e-3, 0.01, 0.2, 7)
    repeated = dataclasses.replace(config.augmentation, repeats=3)
    return dataclasses.replace(
        config, augmentation=repeated, label_smoothing=0.1, model_options={"stochastic_depth": 0.05}
    )


def imagenet_a2() -> TrainConfig:
    """ResNet-50 by "ResNet strikes back" A2: 300 epochs, without label smoothing.

    Command: resnet-keras train imagenet-a2 --data-dir DIR --precision mixed_bfloat16 --accumulation N. Source: Wightman
    et al. 2021, Table 2. Expected: 79.8 % top-1 is published there. Cost: not run by us; half of A1's. Differs: as A1.
    """
    config = _strikes_back("imagenet-a2", 300, 5e-3, 0.02, 0.1, 7)
    repeated = dataclasses.replace(config.augmentation, repeats=3)
    return dataclasses.replace(config, augmentation=repeated, model_options={"stochastic_depth": 0.05})


def imagenet_a3() -> TrainConfig:
    """ResNet-50 by "ResNet strikes back" A3: 100 epochs at 160 pixels, tested at 224.

    Command: resnet-keras train imagenet-a3 --data-dir DIR --precision mixed_bfloat16 --accumulation N. Source: Wightman
    et al. 2021, Table 2. Expected: 78.1 % top-1 is published there. Cost: not run by us; the paper's took 15 hours on
    four V100. Differs: as A1.
    """
    return dataclasses.replace(_strikes_back("imagenet-a3", 100, 8e-3, 0.02, 0.1, 6), train_sizes=(160,))


def imagenet_v2() -> TrainConfig:
    """ResNet-50 by torchvision's second recipe: 600 epochs of SGD, TrivialAugment, at 176 pixels, tested at 224.

    Command: resnet-keras train imagenet-v2 --data-dir DIR --precision mixed_bfloat16. Source: torchvision's
    IMAGENET1K_V2 weights and reference scripts. Expected: 80.86 % top-1 is published there. Cost: not run by us; many
    GPU days.
    Differs: the rate falls with each step, not each epoch; the running average is taken at each step, at the 32nd root
    of the decay that torchvision applies each 32 steps, and runs through the warm-up too; images are mixed with their
    neighbours in the batch, where torchvision moves the batch by one.
    """
    return TrainConfig(
        name="imagenet-v2",
        model="resnet50",
        data="imagenet2012",
        image_size=224,
        train_sizes=(176,),
        eval_crop=224 / 232,
        epochs=600,
        batch_size=1024,
        augmentation=Augmentation(
            crop="resized",
            flip=True,
            policy="trivialaugment",
            fill="black",
            erasing=0.1,
            erasing_fill="mean",
            mixup=0.2,
            cutmix=1.0,
            repeats=4,
        ),
        label_smoothing=0.1,
        zero_init_gamma=False,
        optimizer=Optimizer(learning_rate=0.5, nesterov=False, weight_decay=2e-5, decayed="biases"),
        schedule=Schedule(decay="cosine", warmup=5 / 600, warmup_from=0.01),
        ema=(1 - 2e-5 * 1024 * 32 / 600) ** (1 / 32),
    )


def imagenet_rs50() -> TrainConfig:
    """ResNet-RS-50 on ImageNet at 160 pixels: 350 epochs of batches of 4,096, RandAugment, dropout, running averages.

    Command: resnet-keras train imagenet-rs50 --data-dir DIR --precision mixed_bfloat16. Source: the code of Bello et
    al. 2021, tensorflow/tpu at 7dc921f, models/official/resnet/resnet_rs/configs/resnetrs50_i160.yaml; the lines are in
    docs/recipes.md. Expected: 78.8 % top-1 is published there. Cost: not run by us; a TPU pod. For resnetrs101 at 192
    pixels and all larger ones the code has --magnitude 15.
    Differs: the rate falls along a cosine behind 5 epochs of warm-up, as the paper says (section 4.2) and the authors'
    later code in TensorFlow Models has it, where this code has steps; images are resized with antialiasing, as predict
    and export do it; the statistics of batch norm that are averaged are themselves averages, over some ten steps.
    """
    return TrainConfig(
        name="imagenet-rs50",
        model="resnetrs50",
        data="imagenet2012",
        image_size=160,
        eval_crop=160 / 183,
        interpolation="bicubic",
        epochs=350,
        batch_size=4096,
        augmentation=Augmentation(
            crop="distorted",
            crop_interpolation="bicubic",
            flip=True,
            policy="randaugment-rs",
            fill="grey",
            operations=2,
            magnitude=10,
        ),
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=1.6, weight_decay=4e-5, decayed="biases"),
        schedule=Schedule(decay="cosine", warmup=5 / 350, warmup_prefix=False),
        ema=0.9999,
    )
