"""Predictions against what the benchmarks measured on one H100: peaks within 15 %."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.models.registry import named
from rlhf.planning.memory import Rollout
from rlhf.planning.phases import Answering
from rlhf.planning.rates import H100
from rlhf.planning.schedule import sft_duration
from rlhf.planning.setting import GIB, Setting
from rlhf.planning.stages import stage_plans

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results"


def measured(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["baichuan-7b", "baichuan2-7b", "baichuan-13b"])
def test_peak_of_qlora(name):
    """Those figures are from before the loss was computed in chunks."""
    few = ["sft.batch_size=1", "sft.packing=false", "sft.loss_chunk=null"]
    few += [f"models.main.architecture={name}"]
    config = load_config(resource("configs/baichuan_7b_qlora.yaml"), few)
    (plan,) = stage_plans(Setting(config), "sft")
    assert plan.height.name == "training"
    assert plan.peak_gib == pytest.approx(measured("qlora_7b")["cases"][name]["peak_gib"], rel=0.15)


@pytest.mark.parametrize("batch", [64, 16])
def test_peak_of_a_rollout(batch):
    setting = Setting(load_config(resource("configs/baichuan2_7b.yaml")))
    model = Answering("rollout", named("baichuan2-7b"), Rollout(batch, 128, 256, 256))
    assert model.slots(setting) == batch
    peak = model.phase(setting).peak / GIB
    assert peak == pytest.approx(measured(f"rollout_b{batch}")["peak_gib"], rel=0.15)


def test_peak_of_the_reward_model():
    """Its held-out pairs, which the demo's short prompts and answers make, are its height: they are
    scored by the model as saved, beside the one that was trained."""
    short = ["rm.data.max_length=128", "collect.sampling.max_new_tokens=64", "rm.batch_size=4"]
    config = load_config(resource("configs/baichuan2_7b.yaml"), short)
    (plan,) = stage_plans(Setting(config), "rm")
    assert plan.height.name == "held-out pairs"
    assert plan.peak_gib == pytest.approx(
        measured("true_size")["stages"]["rm"]["peak_gib"], rel=0.15
    )


def test_rates_are_those_of_the_files():
    files = [measured(f"rollout_b{batch}") for batch in (16, 64)]
    assert H100.bandwidth == pytest.approx(files[1]["machine"]["bytes_s"], rel=0.01)
    assert H100.product == pytest.approx(files[1]["machine"]["flops_s"], rel=0.01)
    assert H100.decode == tuple(file["floor_fraction"] for file in files)


@pytest.mark.parametrize("name", ["baichuan2-7b", "baichuan-13b"])
def test_seconds_of_qlora(name):
    """The fraction of the FLOP rate is that of both: one number for two models."""
    config = load_config(
        resource("configs/baichuan_7b_qlora.yaml"),
        ["sft.batch_size=1", f"models.main.architecture={name}"],
    )
    setting = Setting(config)
    seconds = sft_duration(setting, setting.main).seconds
    expected = measured("qlora_7b")["cases"][name]["seconds_a_step"]
    assert seconds == pytest.approx(expected, rel=0.15)
