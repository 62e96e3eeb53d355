"""`resnet-keras export`: a servable, or one file of another runtime."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from resnet_keras.errors import UsageError, unknown
from resnet_keras.export.releases import RELEASES, release_of
from resnet_keras.files import json_text
from resnet_keras.models.registry import check_there
from resnet_keras.remote.stores import is_remote
from resnet_keras.remote.versions import new_version

FORMATS = ("saved_model", "onnx", "litert")


@dataclass(frozen=True)
class Export:
    """Write a SavedModel for TensorFlow Serving, as the next version; or one file of another runtime."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder, a .keras file or cifar10-jpeg, which comes with the package."""
    output: str | None = None
    """saved_models/NAME; NAME is the run's or the file's when left out. s3://BUCKET/NAME and gs://BUCKET/NAME are
    remote folders. For another format: the file."""
    format: str = "saved_model"
    """saved_model, onnx or litert."""
    version: int | None = None
    """The next free number when left out."""
    dtype: str = "float32"
    """float32, bfloat16 or int8."""
    calibration_data: str | None = None
    """For int8: a folder of class/file or the name of a data set, 256 images or more; none after --quantize."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    max_accuracy_loss: float = 0.5
    """For int8: percentage points that may be lost."""
    reduce_range: bool = False
    """For int8: kernels of 7 bits, right on x86 processors without VNNI too."""
    top_k: int = 5
    """Classes that the image_bytes signature names."""
    labels: str | None = None
    """A file with the name of a class on each line; the model's own names when left out."""
    for_serving: str | None = None
    """2.19, 2.20 or 2.21: refuse what this release of TensorFlow Serving does not know."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def check(self) -> None:
        """Raise `UsageError` before TensorFlow is imported: an unknown format or release, a model that is not there."""
        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        if self.for_serving is not None:
            release_of(self.for_serving)
        check_there(self.model)

    def run(self) -> None:
        from resnet_keras.export.servable import (
            SIGMOIDS_ADDED,
            SOFTMAX_ADDED,
            export_servable,
            manifest_of,
            read_labels,
        )

        if self.format != "saved_model":
            self._to_file()
            return
        path = Path(self.model).resolve()
        path = path.parent if path.name == "model.keras" else path
        output = self.output or str(Path("saved_models", path.name.removesuffix(".keras")))
        with self._version_of(output) as (base, version):
            path = export_servable(
                self.model,
                base,
                version=version,
                dtype=self.dtype,
                labels=None if self.labels is None else read_labels(self.labels),
                top_k=self.top_k,
                calibration_data=self.calibration_data,
                data_dir=self.data_dir,
                max_accuracy_loss=self.max_accuracy_loss,
                reduce_range=self.reduce_range,
                for_serving=self.for_serving,
            )
            manifest = manifest_of(path)
        place = f"{output.rstrip('/')}/{path.name}" if is_remote(output) else str(path)
        quantised = manifest.get("int8", {})
        if manifest["head"] in (SOFTMAX_ADDED, SIGMOIDS_ADDED):
            added = "a softmax was" if manifest["head"] == SOFTMAX_ADDED else "sigmoids were"
            print(f"the model ends in logits; {added} put behind them", file=sys.stderr)
        if manifest["normalization"] == "none":
            print("nothing in the model normalises its pixels; they go in as they are, 0 to 255", file=sys.stderr)
        release = manifest.get("for_serving")
        if release and not RELEASES[release].decodes_webp:
            print(
                f"TensorFlow Serving {release} reads no WebP; image_bytes has no labels for such files", file=sys.stderr
            )
        if self.json:
            print(json_text({"path": place, "version": int(path.name), **quantised}))
            return
        print(f"exported to {place}")
        if quantised:
            print(_int8_words(quantised))

    def _version_of(self, output: str) -> AbstractContextManager[tuple[str | Path, int | None]]:
        """The folder to export to, and the number: of a remote one, a folder whose version is then written there."""
        if is_remote(output):
            return new_version(output, self.version)
        return nullcontext((output, self.version))

    def _to_file(self) -> None:
        from resnet_keras.export.formats import export_file

        if is_remote(self.output):
            raise UsageError(f"format {self.format} is one file; give --output a file of this machine")
        others = (self.version, self.labels, self.for_serving)
        if self.output is None or self.reduce_range or any(x is not None for x in others):
            raise UsageError(
                f"format {self.format} is one file: give --output FILE, and no --version, --labels, --reduce-range or "
                "--for-serving"
            )
        path = export_file(
            self.model,
            self.output,
            self.format,
            dtype=self.dtype,
            calibration_data=self.calibration_data,
            data_dir=self.data_dir,
            max_accuracy_loss=self.max_accuracy_loss,
        )
        if self.json:
            print(json_text({"path": str(path)}))
        else:
            print(f"exported to {path}")


def _int8_words(found: dict[str, Any]) -> str:
    """What is in int8, and what that lost, of a manifest."""
    words = f"{found['share_of_macs']:.0%} of the multiply-adds in int8"
    words += " with kernels of 7 bits" * (found.get("kernel_levels", 127) < 127)
    words += ", in the ranges of its training" * ("ranges" in found)
    if "images" not in found:
        return f"{words}; give --calibration-data to measure it"
    what = "accuracy" if "accuracy" in found else "agreement"
    before = f" (float32 {found['accuracy_float32']:.4f})" if what == "accuracy" else " with float32"
    return f"{words}; {what} {found[what]:.4f}{before} on {found['images']:,} images"
