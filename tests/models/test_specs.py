import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_keras.errors import UsageError
from resnet_keras.models.card import ModelCard
from resnet_keras.models.registry import NAMES, list_models, named, names_of
from resnet_keras.models.spec import (
    DenseNetSpec,
    ResNetSpec,
    VGGSpec,
    cifar_spec,
    densenet_spec,
    imagenet_spec,
    vgg_spec,
)


@given(st.integers(-5, 2000), st.sampled_from(["v1", "v2"]))
def test_cifar_depths(depth: int, variant: str) -> None:
    layers = 6 if variant == "v1" else 9
    if depth > 2 and (depth - 2) % layers == 0:
        spec = cifar_spec(depth, variant)
        convolutions = 2 if spec.block == "basic" else 3
        assert sum(spec.blocks) * convolutions + 2 == depth
    else:
        with pytest.raises(UsageError, match=rf"{layers}n\+2") as error:
            cifar_spec(depth, variant)
        for word in str(error.value).replace(";", " ").split()[-3::2]:
            assert cifar_spec(int(word), variant)  # what it suggests can be had


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: imagenet_spec(51), "unknown depth '51'; choose from 18, 34, 50, 101, 152, 200, 270, 350, 420"),
        (lambda: imagenet_spec(50, "v3"), "unknown variant 'v3'; choose from v1, v1.5, v2, v2_slim, d, rs"),
        (lambda: imagenet_spec(50, shortcut="E"), "unknown shortcut 'E'; choose from A, B, C, D, none"),
        (
            lambda: imagenet_spec(50, stem="vgg"),
            "unknown stem 'vgg'; choose from imagenet, cifar, cifar_pool, deep, deep_strided, slim",
        ),
        (lambda: imagenet_spec(50, se_ration=0.1), "unknown argument 'se_ration'.*se_ratio"),
        (lambda: imagenet_spec(18, cardinality=32), "belong to block='bottleneck'"),
        (lambda: imagenet_spec(50, se_ratio=2.0), "se_ratio must be between 0 and 1"),
        (lambda: imagenet_spec(18, shortcut="none", zero_init_gamma=True), "zero_init_gamma would silence a plain net"),
        (lambda: imagenet_spec(18, shortcut="none", stochastic_depth=0.1), "stochastic_depth would silence a plain"),
        (lambda: imagenet_spec(18, "v2", shortcut="none"), "preactivation clears the way of a shortcut"),
        (lambda: imagenet_spec(50, stem="slim"), "stem='slim' belongs to preactivation=True"),
        (lambda: imagenet_spec(50, "v2_slim", shortcut="A"), "stride_in_last_block belongs to shortcut='B'"),
        (lambda: imagenet_spec(50, output_stride=64), "output_stride of this net can be 4, 8, 16 or 32, not 64"),
        (lambda: cifar_spec(20, output_stride=8), "output_stride of this net can be 1, 2 or 4, not 8"),
        (lambda: imagenet_spec(50, stochastic_depth=1.0), "stochastic_depth must be at least 0 and below 1"),
        (lambda: imagenet_spec(50, dropout=-0.1), "dropout must be at least 0 and below 1"),
        (lambda: imagenet_spec(50, norm="instance"), "unknown norm 'instance'; choose from batch, sync_batch, group"),
        (lambda: vgg_spec(12), "unknown depth '12'; choose from 11, 13, 16, 19"),
        (lambda: vgg_spec(16, se_ratio=0.1), "se_ratio is an option of ResNets; a VGG has no such part"),
        (
            lambda: densenet_spec(121, stochastic_depth=0.1),
            "stochastic_depth is .*; a DenseNet has no such",
        ),
        (lambda: vgg_spec(16, weight_standardization=True), "weight_standardization needs a norm behind it"),
        (lambda: imagenet_spec("50"), "unknown depth '50'"),  # type: ignore[arg-type]
        (lambda: cifar_spec("20"), "depth must be a whole number, not '20'"),  # type: ignore[arg-type]
        (
            lambda: imagenet_spec(50, "v2", weight_standardization=True, zero_init_gamma=True),
            "zero_init_gamma starts a pre-activation branch with a kernel of zeros",
        ),
        (lambda: ModelCard(labels=2), "labels must be a list, not 2"),  # type: ignore[arg-type]
        (lambda: ModelCard(labels=("a",), label_ids=("1", "2")), "label_ids must be as many as labels: 2 and 1"),
        (lambda: vgg_spec(16, hidden=0), "hidden must be at least 1"),
        (lambda: VGGSpec((1, 1)), "convolutions and widths need one positive number a stage"),
        (lambda: densenet_spec(100), "unknown depth '100'.*stem='cifar'"),
        (lambda: densenet_spec(101, stem="cifar"), r"with bottlenecks has 6n\+4 layers, so not 101; .* 100 and 106"),
        (lambda: densenet_spec(41, stem="cifar", bottleneck=False), r"without bottlenecks has 3n\+4 layers"),
        (lambda: densenet_spec(121, compression=0), "compression must be above 0"),
        (lambda: DenseNetSpec((2, 0)), "one positive number a stage"),
        (lambda: ResNetSpec(blocks=(2, 2), widths=(16,)), "one positive number a stage"),
        (lambda: named("resnet51"), "unknown model 'resnet51'; did you mean resnet50"),
        (lambda: ModelCard(std=(0.2,)), "one number a channel"),
        (lambda: ModelCard(crop=0), "crop must be"),
    ],
)
def test_refusals_say_what_would_be_right(make, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_names() -> None:
    assert list_models("*cifar*") == [name for name in NAMES if "cifar" in name]
    assert list_models("resnet50*") == ["resnet50", "resnet50_v1", "resnet50_v2", "resnet50_v2_slim", "resnet50d"]
    assert list_models("nothing") == []


PUBLIC = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet200",
    "resnet50_v1",
    "resnet50_v2",
    "resnet50d",
    "resnetrs50",
    "resnetrs101",
    "resnetrs152",
    "resnetrs200",
    "resnetrs270",
    "resnetrs350",
    "resnetrs420",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "seresnet50",
    "seresnet101",
    "seresnet152",
    "seresnext50_32x4d",
    "plain18",
    "plain34",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_resnet1202",
    "cifar_plain20",
    "cifar_plain32",
    "cifar_plain44",
    "cifar_plain56",
    "cifar_plain110",
    "cifar_preact_resnet110",
    "cifar_preact_resnet164",
    "cifar_preact_resnet1001",
    "cifar_wrn28_10",
    "cifar_resnext29_8x64d",
    "cifar_resnext29_16x64d",
    "cifar_seresnet110",
    "resnet18_cifar",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet264",
    "cifar_densenet_bc_100_12",
    "cifar_densenet_bc_190_40",
]


def test_every_public_name_is_in_the_table() -> None:
    assert set(PUBLIC) <= set(NAMES)


def test_a_spec_finds_its_names() -> None:
    for name, row in NAMES.items():
        assert name in names_of(row.spec)
    assert names_of(imagenet_spec(50)) == ["resnet50"]
    assert names_of(imagenet_spec(50, "rs", dropout=0.1, stochastic_depth=0.3)) == ["resnetrs50"]
    assert names_of(imagenet_spec(50, activation="gelu")) == []
    assert names_of(imagenet_spec(50, output_stride=8, norm="sync_batch")) == ["resnet50"]


def test_total_stride() -> None:
    assert imagenet_spec(50).total_stride == 32
    assert cifar_spec(20).total_stride == 4
    assert imagenet_spec(18, stem="cifar").total_stride == 8
    assert vgg_spec(16).total_stride == 32
    assert densenet_spec(121).total_stride == 32
    assert densenet_spec(100, stem="cifar").total_stride == 4


def test_stages_may_be_text() -> None:
    spec = imagenet_spec(18, widths="16, 32,64,128", blocks="1,1,1,1")
    assert (spec.widths, spec.blocks) == ((16, 32, 64, 128), (1, 1, 1, 1))
    with pytest.raises(UsageError, match="widths"):
        imagenet_spec(18, widths="16,x,64,128")
