from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.config.load import load_config
from rlhf.ppo.machine import check_machine


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        (["runtime.precision=float16"], "cpu", "float16 .*ppo, which does not scale its loss; set"),
        (
            ["ppo.compile=true"],
            "cpu",
            "ppo.compile on a CPU .* no compiler here; install",
        ),
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
    monkeypatch.setenv("PATH", "")
    config = load_config("tiny", ["runtime.precision=float32", *changes])
    if message is None:
        check_machine(config)
        return
    with pytest.raises(ValueError, match=message):
        check_machine(config)


def test_on_a_cpu_with_a_compiler_blocks_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "g++"
    compiler.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_machine(load_config("tiny", ["ppo.compile=true", "runtime.device=cpu"]))
