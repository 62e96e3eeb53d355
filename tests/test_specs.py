import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_keras.card import ModelCard
from resnet_keras.errors import UsageError
from resnet_keras.specs import NAMES, ResNetSpec, cifar_spec, imagenet_spec, list_models, named


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
        (lambda: imagenet_spec(51), "unknown depth '51'; choose from 18, 34, 50, 101, 152, 200"),
        (lambda: imagenet_spec(50, "v3"), "unknown variant 'v3'; choose from v1, v1.5, v2, d"),
        (lambda: imagenet_spec(50, shortcut="E"), "unknown shortcut 'E'; choose from A, B, C, D, none"),
        (lambda: imagenet_spec(50, stem="vgg"), "unknown stem 'vgg'; choose from imagenet, cifar, deep"),
        (lambda: imagenet_spec(50, se_ration=0.1), "unknown argument 'se_ration'.*se_ratio"),
        (lambda: imagenet_spec(18, cardinality=32), "belong to block='bottleneck'"),
        (lambda: imagenet_spec(50, se_ratio=2.0), "se_ratio must be between 0 and 1"),
        (lambda: imagenet_spec(18, shortcut="none", zero_init_gamma=True), "plain"),
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
    assert list_models("resnet50*") == ["resnet50", "resnet50_v1", "resnet50_v2", "resnet50d"]
    assert list_models("nothing") == []
    for row in NAMES.values():
        assert sum(row.spec.blocks) > 0


def test_total_stride() -> None:
    assert imagenet_spec(50).total_stride == 32
    assert cifar_spec(20).total_stride == 4
    assert imagenet_spec(18, stem="cifar").total_stride == 8
