"""The model on paper of many GPUs: its limits, and that the docs have its numbers."""

from pathlib import Path

import pytest

from benchmarks.many_gpus import (
    COUNTS,
    LINKS,
    SHARE,
    SUBMISSIONS,
    Arguments,
    Link,
    efficiencies,
    main,
    rate_of_one,
    step,
    table,
)

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_it_is_fitted_to_eight_gpus() -> None:
    eight = SUBMISSIONS[0]
    assert 8 * rate_of_one(SHARE) == pytest.approx(eight.rate)
    assert 0.1 < SHARE < 0.3
    assert eight.rate == pytest.approx(35.2 * 1_281_167 / (13.466 * 60))


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_more_gpus_do_more_and_never_more_than_linear(link: Link) -> None:
    rates = [step(n, 256, link).rate() for n in COUNTS]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(rate_of_one(SHARE))  # nothing to sum
    for n, rate in zip(COUNTS, rates, strict=True):
        hidden = step(n, 256, link).rate(overlap=2 / 3)
        assert rate <= hidden <= n * rate_of_one(SHARE) * (1 + 1e-9)
        assert step(n, 256, link, bytes_of_a_gradient=2).rate() >= rate


def test_a_slow_network_carries_two_gradients_a_step() -> None:
    """By hand, for many hosts: 2 x 25.6 million x 4 bytes at 3.1 GB/s, and 126 messages."""
    one = step(512, 256, LINKS[-1])
    assert one.communication == pytest.approx(2 * 25_557_032 * 4 / 3.125e9 + 126 * 10e-6, rel=0.02)
    assert one.images == 131_072


def test_the_page_has_what_the_program_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(Arguments(tmp_path / "many.png"))
    printed = capsys.readouterr().out
    assert printed == f"{table()}\n\n{efficiencies()}\n"
    page = PAGE.read_text()
    for line in printed.splitlines():
        assert line in page
    assert (tmp_path / "many.png").stat().st_size > 10_000
