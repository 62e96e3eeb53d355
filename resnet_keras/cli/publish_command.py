"""The command `publish`."""

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_keras.models.registry import check_there


@dataclass(frozen=True)
class Publish:
    """Write a network for others, to a folder or the Hugging Face Hub: .keras, safetensors, config.json, model card."""

    run_folder: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder, a .keras file or cifar10-jpeg, which comes with the package."""
    target: Annotated[str, Positional, arg(metavar="FOLDER_OR_HF_REPO")]
    """A folder, new or of an earlier publication; or a repository of the Hub, which is made where it has to be:
    hf://owner/name, or owner/name where there is no folder of the owner's name here. Write ./owner/name for a folder.
    """
    license: str | None = None
    """Identifier of the weights' licence, such as apache-2.0; that of the weights they were trained from when left
    out."""
    private: bool = False
    """On the Hub: a repository that only its owner sees."""
    quiet: bool = False
    """No progress and no notes on standard error."""
    json: bool = False
    """One JSON object on standard output."""

    def check(self) -> None:
        """Raise `UsageError` for a model that is not there, before TensorFlow is imported."""
        check_there(self.run_folder)

    def run(self) -> None:
        from resnet_keras.files import json_text
        from resnet_keras.publishing.publish import publish

        quiet = self.quiet or not sys.stderr.isatty()
        done = publish(self.run_folder, self.target, license=self.license, private=self.private, quiet=quiet)
        if not self.quiet:
            print("".join(f"note: {note}\n" for note in done.notes), end="", file=sys.stderr)
        if self.json:
            print(json_text(done.to_dict()))
            return
        print(f"published {', '.join(done.files)} in {done.where}; rk.load_model({done.weights!r}) loads it")
