"""`resnet-keras predict`: what is in images, files or folders of them."""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from resnet_keras.cli.unreadable import UnreadableImages
from resnet_keras.errors import UsageError
from resnet_keras.files import json_text
from resnet_keras.models.registry import check_there


@dataclass(frozen=True)
class Predict:
    """Name what is in images."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder, a .keras file, a SavedModel folder or cifar10-jpeg, which comes with the package."""
    images: Annotated[tuple[str, ...], Positional, arg(metavar="IMAGE ...")]
    """JPEG, PNG, GIF, BMP or WebP files, or folders of them."""
    top_k: int = 5
    """Classes to name for each."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def check(self) -> None:
        """Raise `UsageError` for a model that is not there, before TensorFlow is imported."""
        check_there(self.model)

    def run(self) -> None:
        from resnet_keras.inference.files import image_files
        from resnet_keras.inference.predict import Unreadable, predict, predict_each

        if not self.images:
            raise UsageError("give at least one image file or folder after the model")
        files = image_files(self.images)
        each = predict(self.model, files, self.top_k) if len(files) == 1 else None
        done: list[dict[str, Any]] = []
        unreadable = UnreadableImages()
        for found in each or predict_each(self.model, files, self.top_k):
            if isinstance(found, Unreadable):
                unreadable.add(found.image, found.error)
                continue
            done.append(found.to_dict())
            if not self.json:
                print(found, flush=True)
        if self.json:
            print(json_text({"predictions": done, "errors": unreadable.rows}))
        unreadable.end(len(files), "read", "the others are answered")
