from __future__ import annotations

import pytest

from rlhf.data.agreement import Agreement, agreement


def test_both_coefficients_by_hand() -> None:
    pairs = [("helpful", "helpful")] * 20 + [("helpful", "harmless")] * 5
    pairs += [("harmless", "helpful")] * 10 + [("harmless", "harmless")] * 15
    result = agreement(pairs)
    assert (result.compared, result.share) == (50, 0.7)
    # By chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5 agree: (0.7 - 0.5) / (1 - 0.5).
    assert result.cohen_kappa == pytest.approx(0.4)
    # 55 of the 100 labels are helpful: 2 * 55 * 45 / (100 * 99) = 0.5 disagree: 1 - 0.3 / 0.5.
    assert result.krippendorff_alpha == pytest.approx(0.4)


def test_alpha_pools_the_labels_and_kappa_does_not() -> None:
    result = agreement([("helpful", "harmless")] * 3)
    assert result.cohen_kappa == 0
    # Chance: 2 * 3 * 3 / (6 * 5) = 0.6; all pairs disagree: 1 - 1 / 0.6.
    assert result.krippendorff_alpha == pytest.approx(-2 / 3)


def test_where_chance_is_undefined() -> None:
    assert agreement([]) == Agreement(0, None, None, None)
    assert agreement([("helpful", "helpful")] * 4) == Agreement(4, 1.0, None, None)
