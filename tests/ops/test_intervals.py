from __future__ import annotations

import pytest

from rlhf.ops.intervals import wilson


def test_hand_computed_interval() -> None:
    # 8 of 10 at z = 1.959964: z^2 = 3.841459, scale = 1 / 1.3841459 = 0.722467,
    # centre = 0.722467 * (0.8 + 0.192073) = 0.716740,
    # half = 0.722467 * 1.959964 * sqrt(0.016 + 0.00960365) = 0.226577.
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490163, abs=2e-5)
    assert high == pytest.approx(0.943317, abs=2e-5)


def test_all_successes_closed_form() -> None:
    # With rate 1 the interval is [n / (n + z^2), 1].
    low, high = wilson(20, 20)
    assert low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)
    assert high == pytest.approx(1.0)


def test_symmetric_under_swapping_success_and_failure() -> None:
    low, high = wilson(3, 17)
    mirrored_low, mirrored_high = wilson(14, 17)
    assert (low, high) == pytest.approx((1 - mirrored_high, 1 - mirrored_low))


def test_more_confidence_is_wider_and_more_trials_narrower() -> None:
    assert wilson(6, 10, 0.99)[0] < wilson(6, 10, 0.9)[0]
    assert wilson(60, 100)[0] > wilson(6, 10)[0]


def test_what_was_drawn_of_a_finite_population() -> None:
    # 17 of 20 drawn of 100 count as of 20 * 99 / 80 = 24.75: z^2 / n = 0.155210,
    # scale = 0.865643, centre = 0.865643 * (0.85 + 0.077605) = 0.802975,
    # half = 0.865643 * 1.959964 * sqrt(0.1275 / 24.75 + 0.155210 / 99) = 0.139075.
    low, high = wilson(17, 20, population=100)
    assert (low, high) == pytest.approx((0.663900, 0.942050), abs=2e-6)
    # Of all that there are the rate is known; with a large population nothing is changed.
    assert wilson(17, 20, population=20) == (0.85, 0.85)
    assert wilson(0, 1, population=1) == (0, 0)
    assert wilson(17, 20, population=10**9) == pytest.approx(wilson(17, 20))
    widths = [
        high - low
        for low, high in (wilson(17, 20, population=n) for n in (20, 21, 25, 40, 100, 1000))
    ]
    assert widths == sorted(widths) and widths[1] < 0.08
    with pytest.raises(AssertionError):
        wilson(1, 3, population=2)


def test_no_trials_know_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_more_successes_than_trials_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        wilson(3, 2)


def test_the_rate_itself_lies_inside_to_the_last_bit() -> None:
    # Rounding puts the bound of 209 of 209, among others, below 1.
    for total in range(1, 400):
        for successes in (0, total / 2, total - 0.5, total):
            low, high = wilson(successes, total)
            assert 0 <= low <= successes / total <= high <= 1
