from __future__ import annotations

import pytest
import torch

from rlhf.config.load import load_config
from rlhf.ppo.machine import check_machine


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        (["runtime.precision=float16"], "cpu", "float16 .*ppo, which does not scale its loss; set"),
        (
            ["ppo.compile=true", "models.main.architecture=moss-moon-003"],
            "cuda",
            "ppo.compile is for Baichuan, and moss-moon-003 is none; set it to false",
        ),
        (["ppo.compile=true", "runtime.precision=bfloat16"], "cuda", None),
        (["runtime.precision=bfloat16"], "cpu", None),
    ],
)
def test_what_a_machine_cannot_do(
    changes: list[str], device: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.ppo.machine.choose_device", lambda _: torch.device(device))
    config = load_config("tiny", ["runtime.precision=float32", *changes])
    if message is None:
        check_machine(config)
        return
    with pytest.raises(ValueError, match=message):
        check_machine(config)
