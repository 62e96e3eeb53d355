"""The recipes for ConvNeXt and ViT on ImageNet, in the table of `recipes.py`."""

import dataclasses

from resnet_keras.config.augmentation import Augmentation
from resnet_keras.config.train import Optimizer, Schedule, TrainConfig

MIXED = Augmentation(crop="resized", crop_interpolation="bicubic", flip=True, mixup=0.8, cutmix=1.0)
"""What all three codebases do."""
RAND_AUGMENT = dataclasses.replace(
    MIXED,
    policy="randaugment-increasing",
    operations=2,
    magnitude=9,
    magnitude_std=0.5,
    operation_probability=0.5,
)
"""That with timm's `rand-m9-mstd0.5-inc1`."""


def imagenet_convnext() -> TrainConfig:
    """ConvNeXt-T on ImageNet: 300 epochs of AdamW in batches of 4,096, RandAugment, MixUp, CutMix, a running average.

    Command: resnet-keras train imagenet-convnext --data-dir DIR --precision mixed_bfloat16 --accumulation N, for a
    batch of 4,096 images; --model convnext_small, convnext_base and convnext_large have their own stochastic depth.
    Source: facebookresearch/ConvNeXt at 048efce, TRAINING.md and the defaults of main.py; the lines are in
    docs/recipes.md. Expected: 82.1 % top-1 is published there. Cost: not run by us at full length; the source's command
    is for 32 GPUs.
    Differs: the policy warps bilinearly, where the source does it bicubically; images are mixed with their neighbours
    in the batch, where timm turns the batch round; an erased rectangle that is longer than the image is cut to it,
    where timm draws again; Keras adds the epsilon before it corrects the mean square, so that for the first steps it
    counts up to 30 times as much; the running average forgets the first weights sooner, by a decay that rises to
    0.9999.
    """
    return TrainConfig(
        name="imagenet-convnext",
        model="convnext_tiny",
        data="imagenet2012",
        image_size=224,
        eval_crop=0.875,
        interpolation="bicubic",
        epochs=300,
        batch_size=4096,
        augmentation=dataclasses.replace(RAND_AUGMENT, erasing=0.25, erasing_fill="normal"),
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=4e-3, weight_decay=0.05, algorithm="adamw", epsilon=1e-8),
        schedule=Schedule(decay="cosine", warmup=20 / 300, floor=1e-6 / 4e-3),
        ema=0.9999,
    )


def imagenet_convnext_384() -> TrainConfig:
    """ConvNeXt-B fine-tuned from 224 to 384 pixels: 30 epochs of AdamW, less rate in front, hardly any weight decay.

    Command: resnet-keras train imagenet-convnext-384 --weights RUN --data-dir DIR --precision mixed_bfloat16, after
    resnet-keras train imagenet-convnext --model convnext_base; with --weights imagenet instead of RUN the published
    weights. Source: facebookresearch/ConvNeXt at 048efce, TRAINING.md, which has this for B and L (--model
    convnext_large --model-options stochastic_depth 0.95), not for T. Expected: 85.1 % top-1 is published there, from
    83.8 % at 224. Cost: not run by us at full length; the source's command is for 16 GPUs.
    Differs: as imagenet-convnext; the layer decay is the cube root of 0.7 a block, where the source has 0.7 for each
    three blocks, so that a block's rate is 0.6 to 1.1 times the source's; evaluation cuts the middle square of the
    image, where the source squeezes the whole of it into a square.
    """
    config = imagenet_convnext()
    return dataclasses.replace(
        config,
        name="imagenet-convnext-384",
        model="convnext_base",
        model_options={"stochastic_depth": 0.8},
        image_size=384,
        eval_crop=1.0,
        epochs=30,
        batch_size=512,
        augmentation=dataclasses.replace(config.augmentation, mixup=0.0, cutmix=0.0),
        optimizer=dataclasses.replace(
            config.optimizer, learning_rate=5e-5, weight_decay=1e-8, layer_decay=0.7 ** (1 / 3)
        ),
        schedule=Schedule(decay="cosine", floor=1e-6 / 5e-5),
        ema=0.0,
    )


def imagenet_deit() -> TrainConfig:
    """ViT-S on ImageNet as DeiT-S: 300 epochs of AdamW in batches of 1,024, each image three times in a batch.

    Command: resnet-keras train imagenet-deit --data-dir DIR --precision mixed_bfloat16; --accumulation N where 1,024
    images do not fit. Source: facebookresearch/deit at 7e160fe, README_deit.md and the defaults of main.py, without a
    teacher; the lines are in docs/recipes.md. Expected: 79.9 % top-1 is published there. Cost: not run by us at full
    length; the source's command is for 4 GPUs.
    Differs: the rate falls with each step, not each epoch, and is not an epoch late; the policy warps bilinearly, where
    the source does it bicubically; images are mixed with their neighbours in the batch, where timm turns the batch
    round; an erased rectangle that is longer than the image is cut to it, where timm draws again; Keras adds the
    epsilon before it corrects the mean square, so that for the first steps it counts up to 30 times as much; the class
    token starts at zero; the patches' convolution starts normal and without biases, where Torch's is uniform.
    """
    return TrainConfig(
        name="imagenet-deit",
        model="vit_s16",
        model_options={"stochastic_depth": 0.1},
        data="imagenet2012",
        image_size=224,
        eval_crop=0.875,
        interpolation="bicubic",
        epochs=300,
        batch_size=1024,
        augmentation=dataclasses.replace(RAND_AUGMENT, erasing=0.25, erasing_fill="normal", repeats=3),
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.05, algorithm="adamw", epsilon=1e-8),
        schedule=Schedule(
            decay="cosine", warmup=5 / 300, warmup_from=1e-6 / 1e-3, warmup_prefix=False, floor=1e-5 / 1e-3
        ),
    )


def imagenet_deit_384() -> TrainConfig:
    """DeiT's ViT fine-tuned from 224 to 384 pixels: 30 epochs at a constant 5e-6.

    Command: resnet-keras train imagenet-deit-384 --weights RUN --data-dir DIR --precision mixed_bfloat16, after
    resnet-keras train imagenet-deit. Source: facebookresearch/deit at 7e160fe, README_deit.md, for DeiT-B (--model
    vit_b16). Expected: 82.9 % top-1 is published there for DeiT-B, from 81.8 % at 224; nothing for DeiT-S. Cost: not
    run by us at full length; the source's command is for 16 GPUs.
    Differs: as imagenet-deit; the network is ViT-S; positions stay those of 224 pixels, interpolated in each step,
    where the source interpolates them once and trains what comes of it.
    """
    config = imagenet_deit()
    return dataclasses.replace(
        config,
        name="imagenet-deit-384",
        model_options={"stochastic_depth": 0.0},
        image_size=384,
        epochs=30,
        batch_size=512,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=5e-6, weight_decay=1e-8),
        schedule=Schedule(decay="constant", warmup=5 / 30, warmup_from=1e-6 / 5e-6),
    )


def imagenet_deit3() -> TrainConfig:
    """ViT-S on ImageNet as DeiT III: 800 epochs of LAMB, 3-Augment, binary cross-entropy, LayerScale.

    Command: resnet-keras train imagenet-deit3 --data-dir DIR --precision mixed_bfloat16 --accumulation N, for a batch
    of 2,048 images. Source: facebookresearch/deit at 7e160fe, README_revenge.md; the lines are in docs/recipes.md.
    Expected: 81.4 % top-1 is published there. Cost: not run by us at full length; the source's command is for 8 GPUs.
    Differs: the rate falls with each step, not each epoch, and is not an epoch late; images are mixed with their
    neighbours in the batch, where timm turns the batch round; the blur is rounded once, where PIL rounds after each of
    six passes; the colour jitter is cut to a pixel's range once, where the source does so after each of its three
    parts, in random order; the class token has a position of its own, and starts at zero without it; the patches'
    convolution starts normal and without biases, where Torch's is uniform.
    """
    return TrainConfig(
        name="imagenet-deit3",
        model="vit_s16",
        model_options={"layer_scale": 1e-4, "stochastic_depth": 0.05, "stochastic_depth_by": "none"},
        data="imagenet2012",
        image_size=224,
        interpolation="bicubic",
        epochs=800,
        batch_size=2048,
        augmentation=dataclasses.replace(MIXED, policy="three-augment", jitter=0.3, repeats=3),
        loss="sigmoid",
        target_threshold=1e-9,  # any share of an image; 0 would keep the shares
        optimizer=Optimizer(learning_rate=4e-3, weight_decay=0.05, algorithm="lamb", epsilon=1e-8, clip_norm=1.0),
        schedule=Schedule(
            decay="cosine", warmup=5 / 800, warmup_from=1e-6 / 4e-3, warmup_prefix=False, floor=1e-5 / 4e-3
        ),
    )


def imagenet_deit3_384() -> TrainConfig:
    """DeiT III's ViT-S fine-tuned from 224 to 384 pixels: 20 epochs of AdamW at 1e-5, RandAugment, cross-entropy.

    Command: resnet-keras train imagenet-deit3-384 --weights RUN --data-dir DIR --precision mixed_bfloat16, after
    resnet-keras train imagenet-deit3. Source: facebookresearch/deit at 7e160fe, README_revenge.md, where ViT-B has
    --model vit_b16 --model-options stochastic_depth 0.15. Expected: 83.4 % top-1 is published there. Cost: not run by
    us at full length; the source's command is for 8 GPUs.
    Differs: as imagenet-deit3, without its blur and jitter; the policy warps bilinearly, where the source does it
    bicubically; Keras adds the epsilon before it corrects the mean square, so that for the first steps it counts up to
    30 times as much; positions stay those of 224 pixels, interpolated in each step, where the source interpolates them
    once and trains what comes of it.
    """
    return dataclasses.replace(
        imagenet_deit3(),
        name="imagenet-deit3-384",
        model_options={"layer_scale": 1e-4, "stochastic_depth": 0.0, "stochastic_depth_by": "none"},
        image_size=384,
        epochs=20,
        batch_size=512,
        augmentation=RAND_AUGMENT,
        loss="softmax",
        target_threshold=0.0,
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=1e-5, weight_decay=0.1, algorithm="adamw", epsilon=1e-8),
        schedule=Schedule(decay="constant", warmup=5 / 20, warmup_from=1e-6 / 1e-5),
    )
