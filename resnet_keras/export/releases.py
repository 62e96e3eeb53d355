"""What TensorFlow added to its graphs, release by release: what a server of an earlier one does not know.

A word is `Operation`, `Operation.attribute`, or `Operation.attribute=type` where an attribute or a CPU kernel takes a
type that it did not take before. `make test-serving-versions` compares the table with the releases themselves.
"""

from dataclasses import dataclass

from resnet_keras.errors import unknown


@dataclass(frozen=True)
class Release:
    """A release of TensorFlow, and of TensorFlow Serving, which has the same numbers."""

    graph_def_version: int
    """The version of graphs that it writes, `producer`; one whose `min_consumer` is above it cannot be loaded."""
    decodes_webp: bool
    """Whether `DecodeImage`, an operation of every servable, reads WebP files."""
    added: tuple[str, ...]
    """Words that the release before it does not know; of the first release nothing is compared."""


_OPTIMIZERS = ("Adagrad", "AdagradMomentum", "Adam", "Ftrl", "Sgd")
_SPARSE = tuple(
    f"XlaSparseDenseMatmul{name}"
    for name in (
        *("WithCsrInput", "WithStaticBufferSize", "GradWithCsrInput"),
        *(f"GradWith{name}And{kind}" for name in _OPTIMIZERS for kind in ("CsrInput", "StaticBufferSize")),
    )
)
"""Of TPUs' embeddings."""

RELEASES = {
    "2.19": Release(graph_def_version=2129, decodes_webp=False, added=()),
    "2.20": Release(
        graph_def_version=2288,
        decodes_webp=True,
        added=(
            "AssignVariableOp.dtype=int2",
            "AssignVariableOp.dtype=uint2",
            "DecodeWebP",
            "Range.Tidx=uint64",
            "TPUDummyInput",
            "TPUReplicateMetadata.use_shardy_partitioner",
            "UniformDequantize.Tin=quint8",
            "UniformQuantize.Tout=quint8",
            "XlaCallModule.use_shardy_partitioner",
            "XlaSparseActivationsUnstack",
            "XlaSparseDenseMatmulCustomCombinerOnTcGradWithCsrInput",
            *(f"XlaSparseDenseMatmulCustomCombinerOnTcGradWith{name}AndCsrInput" for name in _OPTIMIZERS),
            "XlaSparseDenseMatmulCustomCombinerOnTcWithCsrInput",
            *(f"{name}.num_sparsecores_per_device" for name in _SPARSE),
            "XlaSparseDenseMatmulGradWithCsrInput.T",
            "XlaSparseDenseMatmulWithCsrInput.T",
            "XlaSparseGradientsStack",
            "_TPUReplicate.use_shardy_partitioner",
        ),
    ),
    "2.21": Release(
        graph_def_version=2474,
        decodes_webp=True,
        added=("AssignVariableOp.dtype=float4_e2m1fn", "DecodeJxl", "TensorListGetItem.Tshape"),
    ),
}
"""From the oldest to that of our constraints."""


def release_name(version: str) -> str:
    """`2.20` of `2.20.0`."""
    return ".".join(version.split(".")[:2])


def release_of(version: str) -> str:
    """The release in the table that a version is of. Raises `UsageError` where there is none."""
    release = release_name(version)
    if release not in RELEASES:
        raise unknown("release of TensorFlow Serving", version, RELEASES)
    return release


def added_after(release: str) -> frozenset[str]:
    """The words that a release of the table does not know."""
    names = list(RELEASES)
    return frozenset(word for name in names[names.index(release) + 1 :] for word in RELEASES[name].added)
