"""`resnet-keras explain`: one image to a file, or many to a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from resnet_keras.cli.unreadable import UnreadableImages
from resnet_keras.errors import UsageError
from resnet_keras.files import json_text
from resnet_keras.models.registry import check_there
from resnet_keras.progress import counted

if TYPE_CHECKING:
    from resnet_keras.inference.explain import Explainer, Explanation


@dataclass(frozen=True)
class Explain:
    """Show which parts of an image speak for a class, by Grad-CAM."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder, a .keras file or cifar10-jpeg, which comes with the package."""
    images: Annotated[tuple[str, ...], Positional, arg(metavar="IMAGE ...")]
    """JPEG, PNG, GIF, BMP or WebP files, or folders of them."""
    output: str | None = None
    """The .png file to write; the image's name and -explained.png, in this folder, when left out. For several images or
    a folder: the folder to write to, explained when left out."""
    label: str | None = None
    """The class to explain; the likeliest when left out."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def check(self) -> None:
        """Raise `UsageError` for a model that is not there, before TensorFlow is imported."""
        check_there(self.model)

    def run(self) -> None:
        from resnet_keras.inference.explain import Explainer, check_explainable

        if not self.images:
            raise UsageError("give at least one image file or folder after the model")
        check_explainable(self.model)
        if len(self.images) == 1 and not Path(self.images[0]).expanduser().is_dir():
            self._one(self.images[0])
        else:
            from resnet_keras.inference.files import image_files

            folder = Path(self.output or "explained").expanduser()
            if (folder.exists() and not folder.is_dir()) or folder.suffix.lower() == ".png":
                raise UsageError(f"output {folder} is for several images, so it must be a folder")
            # What an earlier call wrote below the images is no image of theirs.
            files = [file for file in image_files(self.images) if not _is_below(file, folder)]
            self._many(Explainer(self.model, self.label), files, folder)

    def _one(self, image: str) -> None:
        from resnet_keras.inference.explain import explain
        from resnet_keras.reports.plots import write_explanation

        output = Path(self.output or f"{Path(image).stem}-explained.png").expanduser()
        if output.resolve() == Path(image).expanduser().resolve():
            raise UsageError(f"output {output} is the image itself; give another --output")
        explanation = explain(self.model, image, label=self.label)
        write_explanation(explanation, output)
        if self.json:
            print(json_text(_as_dict(image, explanation, output)))
        else:
            print(_as_line(image, explanation, output))

    def _many(self, explainer: "Explainer", files: Sequence[Path], folder: Path) -> None:
        """One PNG file for each image; one that cannot be read is named, and the others are done."""
        from resnet_keras.files import writing_to
        from resnet_keras.reports.plots import write_explanation

        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        done: list[dict[str, Any]] = []
        unreadable = UnreadableImages()
        taken: set[str] = set()
        for file in counted(files, "explaining", len(files)):
            try:
                explanation = explainer.file(file)
            except UsageError as error:
                unreadable.add(file, error)
                continue
            output = folder / _name(file, taken)
            write_explanation(explanation, output)
            done.append(_as_dict(str(file), explanation, output))
            if not self.json:
                print(_as_line(str(file), explanation, output), flush=True)
        if self.json:
            print(json_text({"explanations": done, "failed": unreadable.rows}))
        unreadable.end(len(files), "explained", f"the others are in {folder}")


def _is_below(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.expanduser().resolve().parents


def _name(file: Path, taken: set[str]) -> str:
    """The name of an image's PNG file: its own, with the folder's or a number where that is taken."""
    names = [file.stem, f"{file.parent.name}-{file.stem}", *(f"{file.stem}-{i}" for i in range(2, len(taken) + 3))]
    chosen = next(name for name in names if name.casefold() not in taken)
    taken.add(chosen.casefold())
    return f"{chosen}-explained.png"


def _as_dict(image: str, explanation: "Explanation", output: Path) -> dict[str, Any]:
    shown = {"image": image, "label": explanation.label, "score": explanation.score, "output": str(output)}
    return {**shown, "map_size": explanation.map_size, "empty": explanation.empty}


def _as_line(image: str, explanation: "Explanation", output: Path) -> str:
    found = "; no part of the image speaks for it" if explanation.empty else ""
    rows, columns = explanation.map_size
    return f"{image}: {explanation.label} {explanation.score:.4f}{found}; {output}, from a map of {rows}x{columns}"
