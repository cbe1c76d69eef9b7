"""All stages over a trunk in 4 bits."""

from __future__ import annotations

import json

import pytest

from tests.stages.worlds import call, miniature, statuses


@pytest.mark.slow
def test_every_stage_runs_over_a_4_bit_trunk(tmp_path):
    pytest.importorskip("bitsandbytes")
    config = miniature("nf4", tmp_path)
    sections = ("sft", "rm", "ppo")
    call(config, *(f"{section}.tuning.method=qlora" for section in sections))
    run_dir = tmp_path / "nf4"
    assert set(statuses(run_dir).values()) == {"done"}
    for model in ("sft/main", "ppo/actor"):
        saved = json.loads((run_dir / model / "config.json").read_text(encoding="utf-8"))
        assert "quantization_config" not in saved
