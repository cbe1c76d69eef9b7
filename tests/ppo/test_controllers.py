from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlhf.config.schema import KLSection, OptimiserSection, ScoreSection
from rlhf.ppo.controllers import ScoreNormaliser, kl_controller, learning_rate


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [("linear", 0.3), ("cosine", 0.3), ("exponential", math.sqrt(0.05)), ("constant", 0.5)],
)
def test_kl_schedules_go_from_initial_to_final(schedule: str, middle: float) -> None:
    section = KLSection(initial=0.5, final=0.1, schedule=schedule)  # type: ignore[arg-type]
    controller = kl_controller(section, iterations=11)
    assert controller.coefficient(0) == 0.5
    assert controller.coefficient(5) == pytest.approx(middle)
    assert controller.coefficient(10) == pytest.approx(0.5 if schedule == "constant" else 0.1)


def test_cosine_is_flat_at_its_ends() -> None:
    controller = kl_controller(KLSection(initial=1, final=0, schedule="cosine"), iterations=101)
    assert controller.coefficient(10) > 0.97
    assert controller.coefficient(90) < 0.03


def test_a_run_of_one_iteration_uses_the_initial_coefficient() -> None:
    assert kl_controller(KLSection(initial=0.5, final=0.1), iterations=1).coefficient(0) == 0.5


def test_adaptive_kl_by_hand() -> None:
    controller = kl_controller(
        KLSection(initial=0.2, schedule="adaptive", target=6, horizon=1000), iterations=10
    )
    controller.observe(kl=6.6, episodes=100)  # error 0.1
    assert controller.coefficient(1) == pytest.approx(0.2 * 1.01)
    controller.observe(kl=60.0, episodes=100)  # error held at 0.2
    assert controller.coefficient(2) == pytest.approx(0.2 * 1.01 * 1.02)
    controller.observe(kl=0.0, episodes=100)
    assert controller.coefficient(3) == pytest.approx(0.2 * 1.01 * 1.02 * 0.98)


def test_adaptive_kl_goes_on_from_its_state() -> None:
    section = KLSection(initial=0.2, schedule="adaptive", target=6, horizon=1000)
    first, second = kl_controller(section, 10), kl_controller(section, 10)
    first.observe(kl=9.0, episodes=64)
    second.load_state(first.state())
    assert second.coefficient(1) == first.coefficient(1) != 0.2


@pytest.mark.parametrize(
    ("schedule", "target"), [("linear", 6.0), ("adaptive", None), ("constant", 6.0)]
)
def test_a_target_goes_with_the_adaptive_schedule_alone(
    schedule: Any, target: float | None
) -> None:
    with pytest.raises(ValueError, match="goes with schedule: adaptive"):
        KLSection(schedule=schedule, target=target)


def test_fixed_scores_by_hand() -> None:
    normaliser = ScoreNormaliser(ScoreSection(normalisation="fixed", clip=2.0), (1.0, 0.5))
    scores = normaliser.normalise(torch.tensor([1.0, 1.5, 9.0, -9.0]))
    torch.testing.assert_close(scores, torch.tensor([0.0, 1.0, 2.0, -2.0]))


def test_fixed_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="set ppo.score.normalisation to 'running'"):
        ScoreNormaliser(ScoreSection(normalisation="fixed"), (None, None))


def test_none_leaves_scores_alone() -> None:
    normaliser = ScoreNormaliser(ScoreSection(normalisation="none", clip=None), (None, None))
    torch.testing.assert_close(normaliser.normalise(torch.tensor([7.0])), torch.tensor([7.0]))


def test_running_scores_use_all_scores_so_far() -> None:
    section = ScoreSection(normalisation="running", clip=None)
    normaliser = ScoreNormaliser(section, (None, None))
    batches = [torch.randn(5) * 3 + 1, torch.randn(3), torch.randn(8) - 4]
    for count, batch in enumerate(batches, start=1):
        everything = torch.cat(batches[:count])
        expected = (batch - everything.mean()) / everything.std(correction=0)
        torch.testing.assert_close(normaliser.normalise(batch), expected)
    resumed = ScoreNormaliser(section, (None, None))
    resumed.load_state(normaliser.state())
    assert torch.equal(resumed.normalise(batches[0]), normaliser.normalise(batches[0]))


@pytest.mark.parametrize("score", [0.7, 3.0, 1e6])
def test_scores_without_spread_give_no_scale(score: float) -> None:
    """Of one answer, or equal ones: nothing says how large a difference is, and the critic's is
    left as it is."""
    normaliser = ScoreNormaliser(ScoreSection(normalisation="running"), (None, None))
    for _ in range(3):
        same = torch.full((7,), score)
        assert torch.equal(normaliser.normalise(same), torch.zeros(7))
    torch.testing.assert_close(normaliser.rescale(same + 2), torch.full((7,), 2.0))
    normaliser.normalise(torch.full((7,), score * (1 + 1e-7)))  # the same one, rounded otherwise
    torch.testing.assert_close(normaliser.rescale(same + 2), torch.full((7,), 2.0))
    fixed = ScoreNormaliser(ScoreSection(normalisation="fixed"), (1.0, 0.0))
    torch.testing.assert_close(fixed.rescale(torch.tensor([3.0])), torch.tensor([2.0]))


def test_learning_rates_by_hand() -> None:
    linear = OptimiserSection(learning_rate=1.0, schedule="linear", warmup_steps=4, minimum=0.2)
    assert [learning_rate(linear, step, 14) for step in (0, 3, 4)] == [0.25, 1.0, 1.0]
    assert learning_rate(linear, 9, 14) == pytest.approx(0.6)
    assert learning_rate(linear, 14, 14) == pytest.approx(0.2)
    cosine = OptimiserSection(learning_rate=2.0, schedule="cosine")
    assert learning_rate(cosine, 5, 10) == pytest.approx(1.0)
    constant = OptimiserSection(learning_rate=3.0, schedule="constant")
    assert learning_rate(constant, 9, 10) == 3.0
