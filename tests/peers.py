"""Other libraries of networks and augmentations, for the tests of marker `interop`."""

from typing import Any

import pytest


def torchvision_models() -> Any:
    try:  # without CUDA, torchvision's own operators are not there; the networks need none of them
        import torch  # pyright: ignore[reportMissingImports]

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
    return pytest.importorskip("torchvision", reason="torchvision is not installed").models


def timm() -> Any:
    torchvision_models()
    return pytest.importorskip("timm", reason="timm is not installed")


def transformers() -> Any:
    torchvision_models()  # which it imports where it is there
    return pytest.importorskip("transformers", reason="transformers is not installed")
