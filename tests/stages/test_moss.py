"""The whole pipeline with a tiny MOSS as its main model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.models.load import load_causal_lm, load_reward_model
from rlhf.models.registry import spec_of
from tests.stages.worlds import call, miniature, statuses

pytestmark = pytest.mark.slow


def test_every_stage_runs_on_moss(tmp_path: Path) -> None:
    config = miniature("run", tmp_path, like="moss_moon_003_sft", stages=None)
    call(config, "rm.tuning.method=lora", "ppo.tuning.method=lora")
    assert set(statuses(tmp_path / "run").values()) == {"done"}
    for model, load in (("actor", load_causal_lm), ("critic", load_reward_model)):
        path = tmp_path / "run" / "ppo" / model
        assert spec_of(path).name == "moss-moon-003"
        load(path, dtype=torch.float32, device="cpu")
