"""Synchronised batch norm of two replicas beside PyTorch's of two processes, which speak by gloo.

torch.nn.SyncBatchNorm has kernels for GPUs alone. What it computes, batch norm over the images of all processes, is
made here of torch's own batch norm on what `all_gather` brings together. `make test-interop` installs it.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from small import free_ports

from resnet_keras.models.normalization import normalization

pytestmark = pytest.mark.interop
pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
STEPS, SHAPE = 3, (5, 6, 7, 4)
PROCESS = """
import sys
import numpy as np, torch, torch.distributed as dist
from torch.distributed.nn.functional import all_gather
folder, rank, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
given = np.load(f"{folder}/given.npz")
norm = torch.nn.BatchNorm2d(given["gamma"].shape[0])
with torch.no_grad():
    norm.weight.copy_(torch.from_numpy(given["gamma"]))
    norm.bias.copy_(torch.from_numpy(given["beta"]))
found = {}
for step in range(len(given["images"])):
    x = torch.from_numpy(given["images"][step, rank].transpose(0, 3, 1, 2).copy()).requires_grad_()
    weights = torch.from_numpy(given["weights"][step, rank].transpose(0, 3, 1, 2).copy())
    y = norm(torch.cat(all_gather(x)))[rank * len(x):][:len(x)]
    norm.zero_grad()
    (y * weights).sum().backward()
    for parameter in norm.parameters():
        dist.all_reduce(parameter.grad)
    found[f"y{step}"] = y.detach().numpy().transpose(0, 2, 3, 1)
    found[f"dx{step}"] = x.grad.numpy().transpose(0, 2, 3, 1)
    found[f"dgamma{step}"], found[f"dbeta{step}"] = norm.weight.grad.numpy(), norm.bias.grad.numpy()
np.savez(f"{folder}/{rank}.npz", mean=norm.running_mean.numpy(), variance=norm.running_var.numpy(), **found)
"""


def test_synchronised_batch_norm_is_torchs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    channels = SHAPE[-1]
    given = {
        "images": rng.normal(1, 3, (STEPS, 2, *SHAPE)).astype("float32"),
        "weights": rng.normal(size=(STEPS, 2, *SHAPE)).astype("float32"),
        "gamma": rng.uniform(0.5, 1.5, channels).astype("float32"),
        "beta": rng.normal(size=channels).astype("float32"),
    }
    np.savez(tmp_path / "given.npz", **given)  # pyright: ignore[reportArgumentType]
    (port,) = free_ports(1)
    words = [[sys.executable, "-c", PROCESS, str(tmp_path), str(rank), str(port)] for rank in range(2)]
    processes = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in words]
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    theirs = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        norm = normalization("sync_batch", channels, "norm", None)
        norm.build((None, *SHAPE[1:]))
        norm.gamma.assign(given["gamma"])
        norm.beta.assign(given["beta"])

    def step(number: int) -> list[tuple[np.ndarray, ...]]:
        def of_replica() -> tuple[Any, ...]:
            own = tf.distribute.get_replica_context().replica_id_in_sync_group
            images, weights = (tf.gather(tf.constant(given[name][number]), own) for name in ("images", "weights"))
            with tf.GradientTape() as tape:
                tape.watch(images)
                y = norm(images, training=True)
                loss = tf.reduce_sum(y * weights)
            return y, *tape.gradient(loss, [images, norm.gamma.value, norm.beta.value])

        per_replica = tf.function(lambda: strategy.run(of_replica), autograph=False)()
        return list(zip(*(strategy.experimental_local_results(each) for each in per_replica), strict=True))

    for number in range(STEPS):
        ours = step(number)
        for replica, process in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(replica[0], process[f"y{number}"], rtol=0, atol=1e-5)
            np.testing.assert_allclose(replica[1], process[f"dx{number}"], rtol=0, atol=1e-5)
        for column, name in ((2, "dgamma"), (3, "dbeta")):
            total = sum(np.asarray(replica[column]) for replica in ours)
            np.testing.assert_allclose(total, theirs[0][f"{name}{number}"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(norm.moving_mean, theirs[0]["mean"], rtol=0, atol=1e-5)
    # Torch's running variance is of n - 1, Keras's of n: of all images' pixels.
    pixels = 2 * np.prod(SHAPE[:3])
    biased = (theirs[0]["variance"] - 0.9**STEPS) * (pixels - 1) / pixels + 0.9**STEPS
    np.testing.assert_allclose(norm.moving_variance, biased, rtol=1e-5)
    alone = given["images"][0, 0]  # by its own mean and deviation it would be another
    alone = given["gamma"] * (alone - alone.mean((0, 1, 2))) / alone.std((0, 1, 2)) + given["beta"]
    assert np.abs(alone - theirs[0]["y0"]).max() > 0.01
