"""Parity with PyTorch's and KerasHub's networks: their random weights and statistics give the same logits here.

`make test-interop` installs torch, torchvision, timm, transformers and keras-hub for it.
"""

import importlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from peers import timm, torchvision_models
from small import randomise

import resnet_keras as rk
from resnet_keras.config.train import TrainConfig
from resnet_keras.errors import UsageError
from resnet_keras.training.state import TrainingState
from resnet_keras.training.step import Step

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
CifarNet: Any = pytest.importorskip("benchmarks.cifar_torch").CifarNet


def test_binary_cross_entropy_with_threshold_and_smoothing_is_timms() -> None:
    timm()
    from timm.data.mixup import mixup_target  # pyright: ignore[reportMissingImports]
    from timm.loss.binary_cross_entropy import BinaryCrossEntropy  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(8, 10)).astype("float32"), rng.integers(0, 10, 8)
    network = rk.build_cifar_resnet(8, blocks=(1, 1, 1))
    config = TrainConfig(loss="sigmoid", target_threshold=0.2, label_smoothing=0.1)
    step = Step(network, TrainingState(network, config, tf.distribute.get_strategy(), 1), config)
    hot = np.eye(10, dtype="float32")[targets] * 0.9 + 0.01  # as the batches of a run have them
    theirs = BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2)
    for share in (1.0, 0.85, 0.5, 0.2):
        labels = share * hot + (1 - share) * hot[::-1]
        mixed = mixup_target(torch.tensor(targets), 10, share, 0.1)
        np.testing.assert_allclose(labels, mixed.numpy(), atol=1e-6)
        expected = float(theirs(torch.tensor(logits), mixed))
        assert float(tf.reduce_mean(step.losses(tf.constant(logits), tf.constant(labels)))) == pytest.approx(expected)


def randomised(module: Any) -> Any:
    """Random weights and statistics, scaled so that the signal neither dies nor explodes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim > 1:
                fan_in = tensor[0].numel()
                # Steep gates would double a rounding error from block to block, in either library.
                gain = 0.02 if ".se." in name else 2.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (gain / fan_in) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return module.eval()


def same_logits(module: Any, ours: Any, size: int) -> None:
    images = np.random.default_rng(size).normal(size=(2, size, size, 3)).astype("float32")
    with torch.no_grad():
        expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = getattr(expected, "logits", expected).numpy()
    np.testing.assert_allclose(ours(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1


def there_and_back(module: Any, name: str, sizes: tuple[int, ...] = (224, 193), **arguments: Any) -> None:
    """Their weights here give their logits; ours there, by `load_state_dict`, are theirs again to the bit."""
    original = {key: value.clone() for key, value in module.state_dict().items() if value.ndim}
    classes = 7
    arguments = {"classes": classes, "classifier_activation": None, "input_shape": (None, None, 3), **arguments}
    ours = rk.create_model(name, **arguments)
    rk.load_weights(ours, module.state_dict())
    for size in sizes:
        same_logits(module, ours, size)
    back = {key: torch.from_numpy(value) for key, value in rk.torch_state_dict(ours).items()}
    randomised(module).load_state_dict(back)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in original.items())


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "vgg11",
        "vgg16_bn",
        "densenet121",
    ],
)
def test_torchvision(name: str) -> None:
    module = randomised(torchvision_models().get_model(name, num_classes=7))
    there_and_back(module, name)


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("resnet50d", "resnet50d"),
        ("seresnet50", "seresnet50"),
        ("seresnext50_32x4d", "seresnext50_32x4d"),
        ("resnetrs50", "resnetrs50"),
        ("resnetv2_50", "resnet50_v2"),
    ],
)
def test_timm(theirs: str, name: str) -> None:
    module = randomised(timm().create_model(theirs, num_classes=7))
    if theirs == "resnetv2_50":  # its classifier is a 1x1 convolution, which ours gives back as a dense layer
        ours = rk.create_model(name, classes=7, classifier_activation=None, input_shape=(None, None, 3))
        rk.load_weights(ours, module.state_dict())
        for size in (224, 193):
            same_logits(module, ours, size)
        return
    there_and_back(module, name)


def test_timm_vgg_has_its_dense_layers_as_convolutions() -> None:
    module = randomised(timm().create_model("vgg11", num_classes=7))
    ours = rk.create_model("vgg11", classes=7, classifier_activation=None)
    rk.load_weights(ours, module.state_dict())
    same_logits(module, ours, 224)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_torchvision_with_dilation(output_stride: int) -> None:
    module = torchvision_models().resnet50(
        num_classes=7, replace_stride_with_dilation=[False, output_stride < 16, True]
    )
    there_and_back(randomised(module), "resnet50", (97,), output_stride=output_stride)


def test_timm_group_norm() -> None:
    module = randomised(timm().create_model("resnet50_gn", num_classes=7))
    there_and_back(module, "resnet50", (97,), norm="group")


@pytest.mark.parametrize(
    ("name", "layer_type", "depths", "hidden_sizes"),
    [
        ("resnet18", "basic", [2, 2, 2, 2], [64, 128, 256, 512]),
        ("resnet50", "bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    ],
)
def test_transformers(name: str, layer_type: str, depths: list[int], hidden_sizes: list[int]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        layer_type=layer_type, depths=depths, hidden_sizes=hidden_sizes, embedding_size=64, num_labels=7
    )
    module = randomised(transformers.ResNetForImageClassification(config))
    ours = rk.create_model(name, classes=7, classifier_activation=None, input_shape=(None, None, 3))
    rk.load_weights(ours, module)  # a torch module itself
    for size in (224, 193):
        same_logits(module, ours, size)
    backbone = rk.create_model(name, include_top=False, pooling="avg")
    rk.load_weights(backbone, module.resnet.state_dict())
    features = rk.create_model(name, include_top=False, pooling="avg")
    rk.load_weights(features, ours)
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(backbone(x), features(x))


@pytest.mark.parametrize(
    ("name", "block_type", "preactivation"),
    [
        ("resnet18", "basic_block", False),
        ("resnet50", "bottleneck_block", False),
        ("resnet50_v2", "bottleneck_block", True),
    ],
)
def test_keras_hub(name: str, block_type: str, preactivation: bool) -> None:
    models = pytest.importorskip("keras_hub", reason="keras-hub is not installed").models
    blocks = [2, 2, 2, 2] if name == "resnet18" else [3, 4, 6, 3]
    arguments = ([64], [7], [64, 128, 256, 512], blocks, [1, 2, 2, 2], block_type)
    theirs = models.ResNetBackbone(*arguments, use_pre_activation=preactivation)
    randomise(theirs)
    ours = rk.create_model(name, include_top=False)
    rk.load_weights(ours, theirs)
    for size in (224, 193):
        x = np.random.default_rng(size).normal(size=(1, size, size, 3)).astype("float32")
        expected = theirs(x).numpy()
        np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("suffix", [".th", ".pth", ".safetensors"])
def test_cifar_layout_goes_round(suffix: str, tmp_path: Path) -> None:
    module = randomised(CifarNet(20))
    state = {f"module.{key}": value for key, value in module.state_dict().items()}  # as DataParallel saves
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save({"state_dict": state, "best_prec1": 91.7, "epoch": 3}, path)
    ours = rk.create_model("cifar_resnet20", classifier_activation=None)
    rk.load_weights(ours, path)
    same_logits(module, ours, 32)

    back = rk.save_weights(ours, tmp_path / f"back{suffix}")
    loaded = torch.load(back) if suffix != ".safetensors" else pytest.importorskip("safetensors.torch").load_file(back)
    again = CifarNet(20)
    again.load_state_dict(loaded)  # strict: every name, no more
    for key, value in module.state_dict().items():
        if value.ndim:
            assert torch.equal(again.state_dict()[key], value)


class Malice:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.folder,))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_not_run(suffix: str, legacy: bool, tmp_path: Path) -> None:
    path, proof = tmp_path / f"a{suffix}", tmp_path / "ran"
    state = {"conv1.weight": torch.zeros(1), "extra": Malice(proof)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    model = rk.build_cifar_resnet(20)
    before = model.get_weights()
    with pytest.raises(UsageError, match="could run code, so it was not loaded") as error:
        rk.load_weights(model, path)
    assert "\n" not in str(error.value)
    assert not proof.exists()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    torch.load(path, weights_only=False)
    assert proof.exists()  # the trap would have sprung


def test_half_precision_and_non_finite_tensors() -> None:
    module = randomised(CifarNet(20))
    ours = rk.create_model("cifar_resnet20", classifier_activation=None)
    rk.load_weights(
        ours, {key: value.bfloat16() if value.ndim else value for key, value in module.state_dict().items()}
    )
    kernel = module.conv1.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(ours.get_layer("stem").layers[0].kernel, kernel, rtol=2**-8)
    with torch.no_grad():
        module.bn1.bias[3] = float("nan")
    with pytest.raises(UsageError, match=r"bn1.bias in CifarNet has numbers that are not finite"):
        rk.load_weights(ours, module)
    assert np.isfinite(tf.reduce_sum(ours(tf.zeros((1, 32, 32, 3)))))


def test_five_steps_are_torchs() -> None:
    """SGD with Nesterov, coupled decay and label smoothing from the same weights: five steps end at the same."""
    from resnet_keras.config.train import Optimizer, Schedule, TrainConfig
    from resnet_keras.training.state import TrainingState
    from resnet_keras.training.step import Step

    steps, batch, classes = 5, 32, 7
    model = rk.build_resnet(18, classes=classes, input_shape=(64, 64, 3), classifier_activation=None)
    theirs = torchvision_models().resnet18(num_classes=classes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (t for t in theirs.state_dict().values() if t.ndim > 1):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        for name, parameter in theirs.named_parameters():
            if name.endswith("bn2.weight"):  # near the identity, a rounding error does not double from block to block
                parameter.fill_(0.1)
    rk.load_weights(model, theirs.state_dict())
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps, batch, 64, 64, 3)).astype("float32")
    targets = rng.integers(0, classes, (steps, batch))

    # Torch decays every parameter it is given: kernels in one group, the rest in another.
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 5e-3},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=5e-3, momentum=0.9, nesterov=True)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    losses = []
    theirs.train()
    for batch_images, target in zip(images, targets, strict=True):
        optimizer.zero_grad()
        loss = criterion(theirs(torch.from_numpy(batch_images.transpose(0, 3, 1, 2).copy())), torch.from_numpy(target))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    config = TrainConfig(
        batch_size=batch,
        optimizer=Optimizer(5e-3, weight_decay=5e-3),
        schedule=Schedule("constant"),
        label_smoothing=0.1,
    )
    state = TrainingState(model, config, tf.distribute.get_strategy(), steps)
    before = [variable.numpy() for variable in model.trainable_variables]
    run = Step(model, state, config).runner()
    one_hot = (np.eye(classes)[targets] * 0.9 + 0.1 / classes).astype("float32")
    batches = iter(tf.data.Dataset.from_tensor_slices((images, one_hot)))
    for theirs_loss in losses:
        state.write_totals(np.zeros(3))
        run(batches, tf.constant(1))
        assert state.read_totals()[0] / batch == pytest.approx(theirs_loss, rel=1e-4)

    other = rk.build_resnet(18, classes=classes, input_shape=(64, 64, 3), classifier_activation=None)
    rk.load_weights(other, theirs.eval().state_dict())
    for ours, expected, start in zip(model.trainable_variables, other.trainable_variables, before, strict=True):
        apart, way = np.abs(ours.numpy() - expected.numpy()), np.abs(expected.numpy() - start)
        assert apart.max() < 1e-4, ours.path
        assert apart.max() < 0.1 * way.max(), ours.path


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_lamb_is_timms(decay: float) -> None:
    """Twenty steps from the same weights; timm clips by itself unless it is told not to."""
    from resnet_keras.config.train import Optimizer
    from resnet_keras.models.optimizer import PureOptimizer
    from resnet_keras.training.optimizers import make_optimizer

    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 4)).astype("float32")
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    options = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": decay, "max_grad_norm": None}
    timm()
    lamb = importlib.import_module("timm.optim").Lamb([theirs], lr=0.05, **options)
    kernel = keras.Variable(start, name="kernel")
    optimizer = make_optimizer(Optimizer(algorithm="lamb", weight_decay=decay), 0.05, [kernel])
    pure, ours, state = PureOptimizer(optimizer), [tf.constant(start)], [tf.constant(v) for v in optimizer.variables]
    for _ in range(20):
        gradient = rng.normal(size=start.shape).astype("float32")
        theirs.grad = torch.from_numpy(gradient)
        lamb.step()
        ours, state = pure(state, [tf.constant(gradient)], ours)
    # 1 - beta^count is in float32 here, as in Keras, and in float64 there: 1e-5 of a step apart.
    np.testing.assert_allclose(ours[0], theirs.detach().numpy(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs(nesterov: bool) -> None:
    """Twenty steps from the same weights, with coupled decay of the kernel and none of the bias."""
    from resnet_keras.config.train import Optimizer
    from resnet_keras.models.optimizer import PureOptimizer
    from resnet_keras.training.optimizers import make_optimizer

    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape).astype("float32") for shape in ((5, 4), (4,))]
    theirs = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    groups = [{"params": [theirs[0]], "weight_decay": 0.02}, {"params": [theirs[1]], "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=nesterov)
    weights = [keras.Variable(start, name=name) for start, name in zip(starts, ("kernel", "bias"), strict=True)]
    optimizer = make_optimizer(Optimizer(weight_decay=0.02, nesterov=nesterov), 0.05, weights)
    pure, state = PureOptimizer(optimizer), [tf.constant(v) for v in optimizer.variables]
    ours = [tf.constant(start) for start in starts]
    for _ in range(20):
        gradients = [rng.normal(size=start.shape).astype("float32") for start in starts]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        sgd.step()
        ours, state = pure(state, [tf.constant(gradient) for gradient in gradients], ours)
    for one, other, start in zip(ours, theirs, starts, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-6, atol=1e-6)
        assert np.abs(np.asarray(one) - start).max() > 0.1
