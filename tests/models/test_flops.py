from __future__ import annotations

from rlhf.models.flops import iteration_flops
from tests.ppo.conftest import ppo_section


def test_flops_by_hand() -> None:
    full = ppo_section(epochs=2)
    assert iteration_flops(10, 7, full, train_actor=True) == 70 * (2 + 8 + 2 * 12)
    assert iteration_flops(10, 7, full, train_actor=False) == 70 * (2 + 8 + 2 * 6)
    lora = ppo_section(tuning={"method": "lora"})
    assert iteration_flops(10, 7, lora, train_actor=True) == 70 * (2 + 8 + 8)
