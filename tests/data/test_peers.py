"""Random changes beside torchvision's and timm's, on the same images.

`make test-interop` installs them.
"""

from typing import Any

import numpy as np
import pytest
from peers import timm, torchvision_models
from test_data import largest_gap, parts_of

from resnet_keras.data.augmentation import resized_part

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
COUNT = 4000


@pytest.mark.parametrize("sides", [(375, 500), (100, 100), (60, 300)])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_random_part_is_drawn_as_theirs(library: str, sides: tuple[int, int]) -> None:
    if library == "torchvision":
        torchvision_models()
        from torchvision.transforms import RandomResizedCrop as Crop  # pyright: ignore[reportMissingImports]
    else:
        timm()
        from timm.data.transforms import (  # pyright: ignore[reportMissingImports]
            RandomResizedCropAndInterpolation as Crop,
        )
    image = torch.zeros(3, *sides)
    theirs = np.array([Crop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(COUNT)])
    ours = parts_of(sides, resized_part, COUNT)
    for name in range(4):
        assert largest_gap(ours[:, name], theirs[:, name]) < 1.95 * np.sqrt(2 / COUNT), name
