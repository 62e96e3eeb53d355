"""`resnet-keras compare`: runs side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_keras.errors import UsageError


@dataclass(frozen=True)
class Compare:
    """Put runs side by side on one page: curves over each other, metrics, and what differs in their configs."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN RUN ...")]
    """Folders of finished or interrupted runs."""
    output: str = "comparison.html"
    """The page to write."""
    json: bool = False
    """One JSON object on standard output."""

    def run(self) -> None:
        from resnet_keras.files import json_text
        from resnet_keras.reports.comparison import compare, write_comparison

        if len(self.runs) < 2:
            raise UsageError("give at least two run folders: resnet-keras compare RUN RUN ...")
        output = Path(self.output).expanduser()
        if output.is_dir():
            raise UsageError(f"output {output} is a folder; give the name of a file, such as {output / 'runs.html'}")
        found = compare(self.runs)
        write_comparison(found, output)
        if self.json:
            print(json_text({**found.to_dict(), "page": str(output)}))
            return
        width = max(len(run.name) for run in found.runs)
        for run in found.runs:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in found.figures_of(run).items())
            best = [name for name in found.figures_of(run) if found.is_best(run, name)]
            print(f"{run.name:{width}}  {run.split} {figures}{f'; best {chr(32).join(best)}' if best else ''}")
        for warning in found.warnings:
            print(f"warning: {warning}")
        print(f"page in {output}")
