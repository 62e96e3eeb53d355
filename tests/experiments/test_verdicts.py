"""What the experiments conclude from their numbers, which are made up here."""

import dataclasses
import re
from typing import Any

import pytest
from made_up import a_run

from resnet_keras.experiments import comparisons, degradation, gradients, lesions
from resnet_keras.experiments import responses as responses_module
from resnet_keras.experiments.lesions import REMOVED


@pytest.mark.parametrize(
    ("plain_losses", "residual_losses", "verdict"),
    [
        ((1.0, 1.1, 0.9), (0.02, 0.021, 0.019), "seen after 22 steps: .* worse, and shortcuts undo it"),
        # Long after: both losses are next to nothing, and the plain net's is eighty times its twin's.
        ((0.08, 0.07, 0.09), (0.001, 0.0011, 0.0009), "seen after 22 steps: .* worse, and shortcuts undo it"),
        ((1.0, 1.1, 0.9), (0.2, 0.21, 0.19), "seen after 22 steps: .* worse, and shortcuts leave less of it"),
        ((0.1, 0.1, 0.1), (0.1, 0.1, 0.1), "seen in part after 22 steps"),
        ((0.021, 1.0, 0.01), (0.01, 0.01, 0.02), "not shown after 22 steps: the interval"),
        ((0.01, 0.011, 0.012), (0.02, 0.02, 0.02), "not seen after 22 steps: .* better"),
        ((1.0,), (0.01,), "One seed gives no interval"),
    ],
)
def test_the_verdict_on_degradation(
    plain_losses: tuple[float, ...], residual_losses: tuple[float, ...], verdict: str
) -> None:
    runs = [a_run("plain", 44, seed, loss) for seed, loss in enumerate(plain_losses)]
    runs += [a_run("residual", 44, seed, loss) for seed, loss in enumerate(residual_losses)]
    runs += [a_run(kind, 20, seed, 0.02) for kind in ("plain", "residual") for seed in range(len(plain_losses))]
    assert re.search(verdict, degradation.conclusions(runs, "digits")[-1])


def test_degradation_is_told_by_ratios_and_by_epoch() -> None:
    losses = {("plain", 44): (0.8, 0.9), ("residual", 44): (0.01, 0.01), ("plain", 20): (0.1, 0.1)}
    losses["residual", 20] = (0.01, 0.02)
    runs = [a_run(kind, depth, seed, loss) for (kind, depth), own in losses.items() for seed, loss in enumerate(own)]
    said = degradation.conclusions(runs, "digits")
    # The geometric mean of 80 and 90, times or divided by exp(12.706 x half of the distance of their logarithms).
    assert "after 22 steps, the plain net of 44 layers has 84.9 (40.2 to 179) times the training loss" in said[0]
    assert "0.85 and 0.01 nats; 2 seeds, paired, with 95 % intervals" in said[0]
    assert said[0].endswith("it was higher in every seed in 1 of 1 epochs.")
    assert "0.015, 0.01: 0.707 (0.00865 to 57.8) times" in said[1]
    assert said[1].endswith("it was higher in every seed in 0 of 1 epochs.")


def test_the_verdict_on_gradients() -> None:
    def rows(kind: str, ends: tuple[float, float]) -> list[dict[str, Any]]:
        shared = {"kind": kind, "depth": 44, "seed": 0, "step": 0}
        return [{**shared, "block": block, "norm": norm} for block, norm in enumerate(ends)]

    said = gradients.conclusions(
        rows("plain", (1e-4, 1.0)) + rows("residual", (500.0, 1.0)) + rows("still", (0.5, 1.0))
    )
    assert "shrinks 1e+04 times (plain), grows 5e+02 times (residual), stays within a factor of 10 (still)" in said[-1]
    assert "shrinks" in gradients.conclusions(rows("plain", (0.0, 1.0)))[-1]  # a norm that underflows


def test_the_verdict_on_responses() -> None:
    def conclusion_of(plain_deviation: float, deep_share: float) -> str:
        layers = [("plain", d, 0, [plain_deviation]) for d in (20, 44)] + [("residual", d, 0, [1.0]) for d in (20, 44)]
        return " ".join(
            responses_module.conclusions(layers, [("residual", 20, 0, [0.8]), ("residual", 44, 0, [deep_share])])
        )

    assert "at 20, 44 layers" in conclusion_of(2.0, 0.5)
    assert "at none of these depths" in conclusion_of(1.05, 0.5)
    assert "clearly less than the shallowest's" in conclusion_of(2.0, 0.5)
    assert "do not change" in conclusion_of(2.0, 0.79)


def test_the_verdict_on_lesions() -> None:
    def conclusion_of(plain_errors: tuple[float, ...], residual_errors: tuple[float, ...]) -> str:
        cases = []
        for kind, errors in (("plain", plain_errors), ("residual", residual_errors)):
            for seed, error in enumerate(errors):
                shared = {"kind": kind, "depth": 20, "seed": seed, "blocks": 1}
                cases += [{**shared, "lesion": "none", "block": "", "test_error": 0.05}]
                cases += [{**shared, "lesion": REMOVED, "block": "stage1_block1", "test_error": error}]
        return lesions.conclusions(cases)[-1]

    assert "(one seed), the plain net 85.0 points and the residual net 5.0: as Veit et al." in conclusion_of(
        (0.9,), (0.1,)
    )
    assert "do not differ" in conclusion_of((0.1,), (0.1,))
    assert "do not differ" in conclusion_of((0.1,), (0.9,))
    said = conclusion_of((0.9, 0.88, 0.92), (0.1, 0.11, 0.09))
    assert "(mean over 3 seeds, 95 % interval), the plain net 85.0 (80.0 to 90.0) points" in said
    assert "as Veit et al. found" in said
    assert "do not differ" in conclusion_of((0.9, 0.1, 0.06), (0.06, 0.06, 0.06))  # of three seeds, one


def test_the_verdict_on_great_depth() -> None:
    assert "it trains" in comparisons.trained_or_not([a_run("residual", 1202, 0, 0.5)], 10)[0]
    assert "does not train" in comparisons.trained_or_not([a_run("residual", 1202, 0, 2.2)], 10)[0]
    said = comparisons.compared([a_run("one", 20, 0, 0.5), a_run("other", 20, 0, 0.4)])
    assert "Training loss, least first: other 0.4, one 0.5" in said[0]
    assert "(one seed): one 50.00 %, other 50.00 %" in said[0]
    assert len(said) == 1


def test_differences_have_their_interval() -> None:
    errors = {"after": (5.0, 3.1, 7.2), "before": (3.2, 1.7, 4.8), "worse": (8.2, 6.8, 9.8)}
    runs = [
        dataclasses.replace(a_run(kind, 56, seed, 0.1), test_accuracy=1 - error / 100)
        for kind, own in errors.items()
        for seed, error in enumerate(own)
    ]
    said = comparisons.compared(runs)
    assert "(means over 3 seeds with 95 % intervals): after 5.10 (0.00 to 10.20) %" in said[0]
    assert "before minus after is -1.87 (-3.12 to -0.62) points: told apart." in said[1]
    runs = [run if run.seed else dataclasses.replace(run, test_accuracy=0.93) for run in runs]
    assert "3 seeds do not tell them apart" in comparisons.compared(runs)[1]
