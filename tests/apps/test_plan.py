from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf.cli import app

CONFIG = Path(__file__).parents[2] / "configs/baichuan2_7b.yaml"
SAMPLING = ("configs/baichuan2_7b.yaml", "--set", "stages=[collect, evaluate]")


def rlhf(*arguments: object):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_a_table_of_phases():
    shown = rlhf(*SAMPLING)
    assert shown.exit_code == 0
    for text in ("baichuan2_7b: GiB on each GPU", "sampling 13b ppo", "fits", "judging"):
        assert text in shown.stdout
    assert "All stages: 53 min, on 1 x 80 GiB." in shown.stdout


def test_a_config_s_own_words_are_the_plan_s():
    """One config stands for all: where this fails, the others' comments are old too."""
    told = " ".join(CONFIG.read_text(encoding="utf-8").replace("\n#", "").split())
    pattern = r"Time: SFT ([\d.]+) s a step, collecting ([\d.]+) min, reward model ([\d.]+) min, "
    words = re.search(pattern + r"PPO ([\d.]+) h \(reckoned by rlhf plan\)", told)
    assert words is not None
    found = json.loads(rlhf(CONFIG, "--json").stdout)["stages"]
    stages = {stage["name"].partition("/")[0]: stage for stage in found}
    reckoned = [stages["sft"]["seconds"]]
    reckoned += [
        60 * stages["collect"]["hours"],
        60 * stages["rm"]["hours"],
        stages["ppo"]["hours"],
    ]
    assert [float(word) for word in words.groups()] == pytest.approx(reckoned, rel=0.05)


def test_what_does_not_fit_comes_with_options():
    shown = rlhf(*SAMPLING, "--gpu-memory", 24)
    assert "too much" in shown.stdout
    assert "What would make it fit" in shown.stdout and "batch_size=16" in shown.stdout


def test_json_of_the_demo_s_own_small_models():
    found = json.loads(rlhf("configs/tiny.yaml", "--set", "stages=[evaluate]", "--json").stdout)
    further, stage = found["stages"]
    assert (further["name"], stage["name"]) == ("evaluate/sft_extra", "evaluate")
    assert found["fits"] and max(further["peak_gib"], stage["peak_gib"]) < 1


def test_a_deepspeed_configuration(tmp_path):
    out = tmp_path / "zero.json"
    wanted = (
        "--set",
        "stages=[sft]",
        "--set",
        "sft.microbatch_size=4",
        "--gpus",
        2,
        "--deepspeed",
        out,
    )
    told = rlhf("configs/tiny.yaml", *wanted)
    assert told.exit_code == 0, told.output
    assert json.loads(out.read_text())["zero_optimization"]["stage"] == 2
    assert told.stdout.splitlines()[0].startswith("ZeRO-2 on 2 GPUs")
    assert f"--set runtime.deepspeed={out}" in told.stdout
    assert rlhf("configs/tiny.yaml", *wanted).exit_code == 0  # in place of the one before
    out.write_text("name: mine\n")
    with pytest.raises(ValueError, match="is there, and no DeepSpeed configuration"):
        raise rlhf("configs/tiny.yaml", *wanted).exception
    assert out.read_text() == "name: mine\n"


def test_mistakes_are_answered_in_a_line():
    failed = rlhf("configs/tiny.yaml", "--deepspeed", "zero.json")
    assert isinstance(failed.exception, ValueError)
    with pytest.raises(ValueError, match="give --gpus 2 or more"):
        raise failed.exception
