"""Files of weights that would fill the memory, or read other files."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import resnet_keras as rk
from resnet_keras.errors import UsageError
from resnet_keras.models.weights.reading import read_weights


def hdf5(path: Path, fill: Callable[[Any], None]) -> Path:
    """In keras.applications' layout."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0"]
        fill(file)
    return path


def huge(file: Any) -> None:
    file.create_dataset("conv/conv/kernel:0", (20_000, 20_000), "float32", chunks=True, compression="gzip", fillvalue=1)


def external(file: Any) -> None:
    file.create_dataset("conv/conv/kernel:0", (4,), "float32", external=[("/etc/passwd", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("/other.h5", "x", (4,))
    file.create_virtual_dataset("conv/conv/kernel:0", layout)


def linked(file: Any) -> None:
    file["conv/conv/kernel:0"] = h5py.ExternalLink("/other.h5", "/x")


def soft(file: Any) -> None:
    file["conv/conv/kernel:0"] = h5py.SoftLink("/conv")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (huge, "would become 1,600,000,000 bytes, of .* in the file"),
        (external, "is in another file, which is not read"),
        (virtual, "is in another file, which is not read"),
        (linked, "is a link, which is not followed"),
        (soft, "is a link, which is not followed"),
    ],
)
def test_hdf5_files_that_are_not_what_they_seem(fill: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as error:
        read_weights(hdf5(tmp_path / "weights.h5", fill))
    assert "weights.h5" in str(error.value)


def test_archives_that_would_become_gigabytes(tmp_path: Path) -> None:
    """Of zeros that are compressed, and of an HDF5 file within."""
    model = rk.build_cifar_resnet(8, input_shape=(8, 8, 1), blocks=(1,), widths=(4,), stem_width=4)
    model.save(tmp_path / "model.keras")
    members = {info.filename: zipfile.ZipFile(tmp_path / "model.keras").read(info) for info in _members(tmp_path)}
    inside = io.BytesIO()
    with h5py.File(io.BytesIO(members["model.weights.h5"]), "r") as old, h5py.File(inside, "w") as new:
        for name in old:
            old.copy(name, new)
        new.create_dataset("more", (2**30,), "uint8", chunks=True, compression="gzip")
    traps = {
        "zeros": {**members, "assets/zeros": bytes(2**28)},
        "within": {**members, "model.weights.h5": inside.getvalue()},
    }
    for name, content in traps.items():
        with zipfile.ZipFile(tmp_path / f"{name}.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in content.items():
                archive.writestr(member, data)
        with pytest.raises(UsageError, match="would become .* bytes, of .* in the file; it is damaged or a trap"):
            rk.load_model(tmp_path / f"{name}.keras")
    np.savez_compressed(tmp_path / "weights.npz", kernel=np.zeros(2**26, "float32"))
    with pytest.raises(UsageError, match="would become 268,"):
        read_weights(tmp_path / "weights.npz")


def _members(folder: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(folder / "model.keras") as archive:
        return archive.infolist()


@pytest.mark.interop
def test_pth_files_are_tensors_and_nothing_else(tmp_path: Path) -> None:
    """With torch itself: whole, torn, with code in it, and one that would become gigabytes."""
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    tensors = {"conv.weight": torch.ones(2, 2), "epoch": 3}
    torch.save({"state_dict": tensors}, tmp_path / "good.pth")
    np.testing.assert_array_equal(read_weights(tmp_path / "good.pth").tensors["conv.weight"], np.ones((2, 2)))
    data = (tmp_path / "good.pth").read_bytes()
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> Any:
            return open, (str(ran), "w")

    torch.save({"conv.weight": Code()}, tmp_path / "code.pth")
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / f"torn{cut}.pth").write_bytes(data[:cut])
    with zipfile.ZipFile(tmp_path / "trap.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("trap/data/0", bytes(2**28))
    for path in sorted(tmp_path.glob("*.pth")):
        if path.name != "good.pth":
            with pytest.raises(UsageError, match=path.name) as error:
                read_weights(path)
            assert str(error.value)
    assert not ran.exists()
