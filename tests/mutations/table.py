"""Small faults, over all rooms, and for each the fast tests that must see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One fault: what a pattern finds is replaced."""

    name: str
    file: str
    """A path or a glob from the root of the repository; the pattern must match once in all files of that name."""
    pattern: str
    """A regular expression, of numbers and signs where it can be, so that a variable's new name does no harm."""
    replacement: str
    tests: tuple[str, ...]
    """What pytest is to run: files, tests in them, and options such as -k."""


PACKAGE = "resnet_keras"
MUTATIONS = (
    # ground
    Mutation(
        "errors-few-words",
        f"{PACKAGE}/errors.py",
        r"if len\((\w+)\) <= 20 else",
        r"if len(\1) > 20 else",
        ("tests/config/test_config.py::test_refusals",),
    ),
    # config
    Mutation(
        "config-momentum",
        f"{PACKAGE}/config/*.py",
        r"momentum: float = 0\.9\n",
        "momentum: float = 0.99\n",
        ("tests/config/test_config.py::test_the_papers_protocol",),
    ),
    Mutation(
        "config-profile-order",
        f"{PACKAGE}/config/*.py",
        r"int\((\w+)\) <= int\((\w+)\)",
        r"int(\1) >= int(\2)",
        ("tests/config/test_config.py::test_refusals",),
    ),
    # models
    Mutation(
        "models-shortcut-channels",
        f"{PACKAGE}/models/*.py",
        r"\((\w+) // 2, \1 - \1 // 2\)",
        r"(0, \1)",
        ("tests/models/test_layers.py::test_zero_padded_shortcut",),
    ),
    Mutation(
        "models-batch-variance",
        f"{PACKAGE}/models/*.py",
        r"\((\w+) - 1\) / \1\b",
        r"(\1 + 1) / \1",
        ("tests/models/test_layers.py::test_fused_batch_norm_is_kerass",),
    ),
    Mutation(
        "models-bottleneck-stride",
        f"{PACKAGE}/models/*.py",
        r"\(self\.strides, 1\) if",
        "(1, self.strides) if",
        ("tests/models/test_blocks.py::test_where_the_bottleneck_strides",),
    ),
    Mutation(
        "models-stochastic-depth",
        f"{PACKAGE}/models/*.py",
        r"max\(1, sum\(spec\.blocks\) - 1\)",
        "max(1, sum(spec.blocks))",
        ("tests/models/test_options.py::test_stochastic_depth_rises_along_a_line_and_drops_whole_branches",),
    ),
    Mutation(
        "weights-kernel-axes",
        f"{PACKAGE}/models/weights/*.py",
        r"transpose\(2, 3, 1, 0\)",
        "transpose(3, 2, 1, 0)",
        ("tests/models/test_weights.py::test_state_dict_goes_round[cifar_resnet20]",),
    ),
    Mutation(
        "weights-folded-bias",
        f"{PACKAGE}/models/weights/*.py",
        r"= (\w+\[\w+\]) - bias",
        r"= \1 + bias",
        ("tests/models/test_weights.py::test_keras_applications_in_short[ResNet50-97]",),
    ),
    # data
    Mutation(
        "data-mixed-neighbour",
        f"{PACKAGE}/data/*.py",
        r"np\.arange\((\w+)\) \^ 1",
        r"np.arange(\1) ^ 2",
        ("tests/data/test_augmentation.py::test_labels_are_mixed_as_the_pixels_are",),
    ),
    Mutation(
        "data-rotation",
        f"{PACKAGE}/data/*.py",
        r"\[\[cos, -sin\], \[sin, cos\]\]",
        "[[cos, sin], [-sin, cos]]",
        ("tests/data/test_augmentation.py::test_warps_are_pils",),
    ),
    Mutation(
        "data-label-smoothing",
        f"{PACKAGE}/data/*.py",
        r"\+ label_smoothing / (\w+)",
        r"- label_smoothing / \1",
        ("tests/data/test_data.py::test_the_incomplete_batch_is_dropped_and_labels_belong",),
    ),
    Mutation(
        "data-centre-crop",
        f"{PACKAGE}/data/images.py",
        r"tf\.reduce_max\(",
        "tf.reduce_min(",
        ("tests/data/test_data.py", "-k", "the_crop_is_the_centre"),
    ),
    # inference
    Mutation(
        "inference-top5",
        f"{PACKAGE}/inference/*.py",
        r"axis=-1\) < 5\)",
        "axis=-1) <= 5)",
        ("tests/inference/test_use.py::test_evaluation_is_its_definitions",),
    ),
    Mutation(
        "inference-heat",
        f"{PACKAGE}/inference/gradcam.py",
        r"np\.maximum\(",
        "np.minimum(",
        ("tests/inference/test_explain.py::test_heat_is_where_the_class_is",),
    ),
    # reports
    Mutation(
        "reports-heat-scale",
        f"{PACKAGE}/reports/*.py",
        r"vmax=1, alpha=",
        "vmax=2, alpha=",
        ("tests/inference/test_explain.py::test_what_is_drawn",),
    ),
    # export
    Mutation(
        "export-folded-norm",
        f"{PACKAGE}/export/*.py",
        r"- mean \* scale",
        "+ mean * scale",
        ("tests/export/test_export_families.py::test_every_family_in_every_dtype[cifar_resnet20]",),
    ),
    Mutation(
        "export-folded-mean",
        f"{PACKAGE}/export/*.py",
        r"self\.bias - np\.einsum",
        "self.bias + np.einsum",
        ("tests/export/test_export_families.py::test_every_family_in_every_dtype[cifar_resnet20]",),
    ),
    Mutation(
        "export-int8-rounding",
        f"{PACKAGE}/export/*.py",
        r"np\.round\(kernel",
        "np.floor(kernel",
        ("tests/export/test_export_families.py::test_kernels_are_quantised_by_output_channel",),
    ),
    Mutation(
        "export-next-version",
        f"{PACKAGE}/export/*.py",
        r"default=0\) \+ 1",
        "default=0) + 2",
        ("tests/inference/test_use.py::test_versions_count_up",),
    ),
    # training
    Mutation(
        "training-cosine",
        f"{PACKAGE}/training/*.py",
        r"1 - tf\.cos\(",
        "1 + tf.cos(",
        ("tests/training/test_schedule.py::test_schedules_are_fractions_of_the_run",),
    ),
    Mutation(
        "training-lamb-count",
        f"{PACKAGE}/training/*.py",
        r"self\.iterations\) \+ 1",
        "self.iterations) + 2",
        ("tests/training/test_optimizer_steps.py::test_two_steps_by_hand",),
    ),
    Mutation(
        "training-decayed-vectors",
        f"{PACKAGE}/training/*.py",
        r"len\((\w+)\.shape\) > 1",
        r"len(\1.shape) > 0",
        ("tests/models/test_features.py::test_decay_spares_vectors_and_named_layers",),
    ),
    Mutation(
        "training-unfreezing",
        f"{PACKAGE}/training/*.py",
        r"if start <= first",
        "if start < first",
        ("tests/training/test_phases.py::test_phases_cut_a_run_where_something_changes",),
    ),
    # serving
    Mutation(
        "serving-base64",
        f"{PACKAGE}/serving/*.py",
        r"\(-len\((\w+)\) % 4\)",
        r"(len(\1) % 4)",
        ("tests/serving/test_rest_json.py::test_requests",),
    ),
    Mutation(
        "serving-batching-limits",
        f"{PACKAGE}/serving/*.py",
        r"getattr\(batching, key\) < 1:",
        "getattr(batching, key) < 0:",
        ("tests/serving/test_serving.py::test_wrong_batching_parameters",),
    ),
    Mutation(
        "serving-largest-port",
        f"{PACKAGE}/serving/*.py",
        r"getattr\(self, (\w+)\) < 65536",
        r"getattr(self, \1) <= 655360",
        ("tests/serving/test_serving.py::test_wrong_flags",),
    ),
    # experiments
    Mutation(
        "experiments-gradient-ratio",
        f"{PACKAGE}/experiments/*.py",
        r"max\((\w+)\[0\], (\w+)\) / max\(\1\[-1\], \2\)",
        r"max(\1[-1], \2) / max(\1[0], \2)",
        ("tests/experiments/test_verdicts.py::test_the_verdict_on_gradients",),
    ),
    # benchmarks
    Mutation(
        "benchmarks-slower",
        f"{PACKAGE}/benchmarks/*.py",
        r"(\w+)\.rate\.high < (\w+)\.rate\.low",
        r"\1.rate.median < \2.rate.median",
        ("tests/benchmarks/test_benchmark_reports.py::test_a_row_within_the_spread_is_not_named",),
    ),
    Mutation(
        "benchmarks-best-setting",
        f"{PACKAGE}/benchmarks/*.py",
        r"ratio\.low > 1",
        "ratio.high > 1",
        ("tests/benchmarks/test_benchmark_serve.py", "-k", "first_stays"),
    ),
    # cli
    Mutation(
        "cli-gigamacs",
        f"{PACKAGE}/cli/*.py",
        r"\['macs'\] / 1e9",
        "['macs'] / 1e6",
        ("tests/cli/test_cli.py::test_models",),
    ),
    # tuning
    Mutation(
        "tuning-bounds",
        "tuning/*.py",
        r"value > most\b",
        "value >= most",
        ("tests/tuning/test_tuning.py::test_bounds",),
    ),
)
