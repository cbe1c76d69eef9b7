from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rlhf.apps.plan import plan_run, show
from rlhf.cli import app
from rlhf.config.load import load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SAMPLING = ("configs/baichuan2_7b.yaml", "--set", "stages=[collect, evaluate]")


def rlhf(*arguments: object):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_a_table_of_phases():
    shown = rlhf(*SAMPLING)
    assert shown.exit_code == 0
    for text in ("baichuan2_7b: GiB on each GPU", "sampling 13b ppo", "fits", "judging"):
        assert text in shown.stdout
    assert "All stages: 53 min, on 1 x 80 GiB." in shown.stdout


@pytest.mark.parametrize(("width", "parts"), [(144, True), (80, False), (40, False)])
def test_a_narrow_terminal_has_the_peaks_whole(width, parts):
    """The columns for what lies in memory are left out there; they had no width at all."""
    console = Console(width=width, record=True, file=StringIO())
    show(plan_run(load_config("baichuan2_7b"), gpus=1, gpu_memory=24.0), console)
    text = console.export_text()
    assert "…" not in text and ("activations" in text) == parts


def words(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").replace("\n#", "").split())


RECKONED = [path for path in CONFIGS if "(reckoned by rlhf plan)" in words(path)]
MEMORY = (
    r"learning (\d+) GiB \(SFT\) and (\d+) \(reward model\)(?:, its held-out pairs (\d+))?; "
    r"sampling (\d+)(?: \(collecting\) and (\d+) \(PPO\))?"
)
TIME = (
    r"Time: SFT (\d+) s a step, collecting ([\d.]+) (min|h), reward model ([\d.]+) (min|h), "
    r"PPO ([\d.]+) h \(reckoned by rlhf plan\)"
)


def test_most_configs_say_what_they_need():
    assert len(RECKONED) == 13


@pytest.mark.parametrize("path", RECKONED, ids=lambda path: path.stem)
def test_a_config_s_own_words_are_the_plan_s(path):
    told = words(path)
    gpus = re.search(r"Memory on each of (\d+) GPUs", told)
    card = re.search(r"[Oo]n (\d+) GiB", told)
    where = ["--gpus", gpus[1]] if gpus else ["--gpu-memory", card[1]]
    found = json.loads(rlhf(path, "--json", *where).stdout)
    assert found["fits"]
    stages = {stage["name"].partition("/")[0]: stage for stage in found["stages"]}
    sft, rm, pairs, sampling, ppo = re.search(MEMORY, told).groups()
    assert gib(stages["sft"]) == sft
    assert gib(stages["rm"], "held-out pairs" if pairs else "") == (pairs or rm)
    if pairs:
        assert gib(stages["rm"], "evaluation") == rm  # above training
    answering = [stages["collect"]] if ppo else [stages["collect"], stages["ppo"]]
    assert str(max(int(gib(stage, "sampling")) for stage in answering)) == sampling
    assert not ppo or gib(stages["ppo"], "sampling") == ppo
    step, collecting, unit, learning, rm_unit, hours = re.search(TIME, told).groups()
    assert f"{stages['sft']['seconds']:.0f}" == step
    assert lasts(stages["collect"], collecting, unit) == collecting
    assert lasts(stages["rm"], learning, rm_unit) == learning
    assert lasts(stages["ppo"], hours, "h") == hours


def gib(stage: dict, phase: str = "") -> str:
    """The height of the phases of that name; of all of them without one."""
    phases = [one["peak_gib"] for one in stage["phases"] if one["name"].startswith(phase)]
    return f"{max(phases):.0f}"


def lasts(stage: dict, written: str, unit: str) -> str:
    """To as many decimals as are written."""
    hours = stage["hours"] * (60 if unit == "min" else 1)
    return f"{hours:.{len(written.partition('.')[2])}f}"


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
    out = tmp_path / "a zero.json"
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
    assert f"-> --set 'runtime.deepspeed={out}'" in told.stdout
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
