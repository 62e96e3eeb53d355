"""`make bench`: this library beside its peers, section by section, and how far each goal is.

Command: python -m benchmarks.suite [--sections train infer classifiers input serve start growth] [--pairs N] [--quick]
[--output docs/results]. Peers are optional: PyTorch and torchvision, keras.applications, ONNX Runtime, OpenVINO with
NNCF, JAX. What is missing or fails is named, and the rest goes on; the exit code is 1 where a section failed.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sections import SECTIONS
from resnet_keras.benchmarks.machine import version_of
from resnet_keras.benchmarks.report import Report
from resnet_keras.benchmarks.rounds import Effort
from resnet_keras.benchmarks.workers import ends_by_signals
from resnet_keras.errors import UsageError, require, unknown

PEERS = ("torch", "torchvision", "onnx", "tf2onnx", "onnxruntime", "openvino", "nncf", "jax", "jaxlib")
QUICK = Effort(2, 0.2)


@dataclass
class Arguments:
    """Measure this library beside others."""

    sections: tuple[str, ...] = ()
    """Of: train infer classifiers input serve start growth; all when left out."""
    pairs: int = 5
    """Rounds, in each of which every row takes its turn; at least 2."""
    seconds: float = 0.5
    """Of a turn, at least one call."""
    quick: bool = False
    """Two short rounds: to see that all of it runs, not for a claim."""
    output: str | None = None
    """The folder of the results, such as docs/results: benchmarks.json, whose other sections stay, and benchmarks.md;
    charts go into `images` beside it."""


def measured(
    names: tuple[str, ...], effort: Effort, sections: Mapping[str, Callable[[Effort], Report]]
) -> tuple[dict[str, Report], dict[str, str]]:
    """The reports of sections, and why others have none. Raises `UsageError` for a section that there is not."""
    for name in names:
        if name not in sections:
            raise unknown("section", name, sections)
    reports, failed = {}, {}
    for name in names or tuple(sections):
        started = time.monotonic()
        try:
            reports[name] = _with_peers(sections[name](effort))
        except Exception as error:  # of a library that is not ours, too; the other sections go on
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: failed, {failed[name]}", file=sys.stderr)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return reports, failed


def _with_peers(report: Report) -> Report:
    """With the peers' versions among those of the machine."""
    peers = {name: version_of(name) for name in PEERS}
    versions = {**report.machine["versions"], **{name: version for name, version in peers.items() if version}}
    missing = [name for name, version in peers.items() if not version]
    notes = (*report.notes, *([f"not installed: {', '.join(missing)}"] if missing else []))
    return dataclasses.replace(report, machine={**report.machine, "versions": versions}, notes=notes)


def main(arguments: Arguments) -> int:
    from benchmarks.goals import outcomes
    from benchmarks.page import TITLES, goals_table, tables, write
    from resnet_keras.files import writing_to

    if arguments.output and Path(arguments.output).is_file():
        raise UsageError(f"output {arguments.output} is a file; give a folder")
    require(arguments.pairs >= 2, "pairs", "at least 2", arguments.pairs)
    require(arguments.seconds > 0, "seconds", "above 0", arguments.seconds)
    effort = QUICK if arguments.quick else Effort(arguments.pairs, arguments.seconds)
    with ends_by_signals():
        reports, failed = measured(arguments.sections, effort, SECTIONS)
    for kind, report in reports.items():
        print(f"\n# {TITLES[kind]}\n\n{tables(report)}")
    chosen = [one for one in outcomes(reports) if one.goal.section in reports]
    print(f"\n# Goals\n\n{goals_table(chosen)}")
    if arguments.output and reports:
        folder = Path(arguments.output)
        with writing_to(folder):
            print(f"\nwritten: {', '.join(map(str, write(reports, folder)))}")
    for name, why in failed.items():
        print(f"section {name} failed: {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(main(tyro.cli(Arguments)))
    except UsageError as error:
        sys.exit(f"error: {error}")
