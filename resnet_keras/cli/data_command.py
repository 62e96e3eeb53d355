"""`resnet-keras data`: a check of data before a network is trained on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_keras.errors import UsageError, require


@dataclass(frozen=True)
class Data:
    """Check data before training: counts, sizes, damaged files, duplicates, leakage, imbalance; on a page with samples.

    Exit code 2 where training would refuse the data.
    """

    data: Annotated[str, Positional, arg(metavar="DATA")]
    """A folder of class/file or split/class/file, a .csv or .parquet file of image and label, a TensorFlow Datasets
    name or digits."""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data."""
    output: str | None = None
    """The page to write; the data's name and -data.html, in this folder, when left out."""
    image_size: int | None = None
    """Size of the network's input in pixels, below which images are called small; that of the images when left out and
    all have one size, else 64, which the recipe finetune takes."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.data.advice import advice_on
        from resnet_keras.data.inspection import inspect
        from resnet_keras.files import json_text
        from resnet_keras.reports.data import summary_of, write_data_page
        from resnet_keras.training.plan import USUAL_SIDE

        require(self.image_size is None or self.image_size >= 1, "image_size", "at least 1", self.image_size)
        output = Path(self.output or f"{Path(self.data).resolve().name}-data.html").expanduser()
        if output.is_dir():
            raise UsageError(f"output {output} is a folder; give the name of a file, such as {output / 'data.html'}")
        found = inspect(self.data, self.data_dir)
        image_size = self.image_size or found.common_size or USUAL_SIDE
        advice = advice_on(found, image_size)
        write_data_page(found, image_size, output)
        if self.json:
            told = [{"level": level, "text": text} for level, text in advice]
            print(json_text({**found.to_dict(image_size), "advice": told, "page": str(output)}))
        else:
            print(summary_of(found))
            for file, why in found.damaged.items():
                print(f"damaged: {file}: {why}")
            for level, text in advice:
                print(f"{level}: {text}")
            print(f"page in {output}")
        if found.refusal:
            raise UsageError(f"training would refuse {self.data}: {found.refusal}")
