"""The tables of docs/scaling.md hold what the files of measurements and the planner say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks import scaling_table
from rlhf.planning.rates import H100, H200
from rlhf.planning.schedule import sft_duration
from rlhf.planning.setting import GIB
from tests.planning import workloads
from tests.planning.workloads import measured

PAGE = Path(__file__).resolve().parents[2] / "docs/scaling.md"
WHOLE = ["1 row", "2 rows, half again", "4 rows, all again"]
LORA = ["4 rows", "2 rows", "8 rows, half again"]
ZERO3 = [("sft_full_2_zero3",), ("sft_full_4_zero3",), ("sft_13b_full_4_zero3",)]
ZERO2 = [("sft_lora_1",), ("sft_lora_2_zero2",), ("sft_lora_4_zero2",)]
LONGER = [("ppo_128", "compiled"), ("growth_32_1024", "long"), ("ppo_13b", "eager")]
GROWN = [("growth_16_256", "compiled"), ("growth_64_256", "compiled"), ("growth_32_512", "long")]
MANY = [("growth_256_256", "compiled")]
BUDGET = [("sft_full_budget", "4 rows, budget 0.7"), ("sft_full_budget", "4 rows, budget 0.5")]
FAST = [("ppo_fast_1",), ("ppo_fast_2",), ("ppo_fast_4",)]
SHARED = [("ppo_shared_1",), ("ppo_shared_2",)]
FOUR_MODELS = [("ppo_full_4_zero3",)]
QLORA = [("baichuan-7b",), ("baichuan2-7b",), ("baichuan-13b",)]
Figures = tuple[float, float, float, float]
"""GiB and seconds, both as measured and as planned."""


def qlora(name: str) -> Figures:
    found, setting = measured("qlora_7b")["cases"][name], workloads.qlora(name)
    seconds = sft_duration(setting, setting.main).seconds
    return found["peak_gib"], found["seconds_a_step"], workloads.qlora_plan(name).peak_gib, seconds


def loading(name: str) -> Figures:
    found = measured("qlora_7b")["cases"][name]["load_peak_gib"]
    return found, 0, workloads.qlora_plan(name).phases[0].peak / GIB, 0


def rollout(batch: int, card: str = "") -> Figures:
    found = measured(f"rollout_b{batch}{card}")
    _, peak, seconds = workloads.rollout(batch, H200 if card else H100)
    return found["peak_gib"], found["seconds"], peak, seconds


def tuned(case: str, name: str) -> Figures:
    found, plan = measured(case)["settings"]["ours"][name], workloads.tuned(case, name)
    return found["peak_gib"], fmean(found["step_seconds"]), plan.peak_gib, plan.duration.seconds


def pairs(group: str, at_once: int) -> Figures:
    found = measured("rm")["groups"][group]["pairs" if at_once == 4 else "pairs 8"]
    planned = workloads.pairs(group, at_once)
    return found["peak_gib"], 16 / found["responses_per_second"], *planned


def rm_lora(case: str, gpus: int, engine: str) -> Figures:
    found = measured("scaling")["cases"][case]
    return max(found["peak_gib"]), found["seconds_a_step"], *workloads.rm_lora(gpus, engine)


def ppo(case: str, name: str) -> Figures:
    found, (_, plan) = measured(case)["options"][name], workloads.ppo(case, name)
    return found["peak_gib"], found["seconds"], plan.peak_gib, plan.duration.seconds


def scaled(case: str) -> Figures:
    found, plan = measured("scaling")["cases"][case], workloads.scaled(case)
    seconds = found.get("seconds_a_step") or workloads.episodes(case) / found["rate"]
    return max(found["peak_gib"]), seconds, plan.peak_gib, plan.duration.seconds


RM_LORA = [("rm_lora_1", 1, "null"), ("rm_lora_2_zero2", 2, "zero2")]
MEMORY = [
    *((qlora, [one]) for one in QLORA),
    (rollout, [(64,)]),
    (rollout, [(16,)]),
    (tuned, [("sft_full", "1 row")]),
    (tuned, [("sft_full", name) for name in WHOLE[1:]]),
    (tuned, [("sft_full", "plain")]),
    (tuned, [("sft_lora", name) for name in LORA[:2]]),
    (tuned, [("sft_lora", LORA[2]), ("sft_lora", "plain")]),
    (tuned, [("sft_full_32", "2 rows"), ("sft_full_32", "4 rows")]),
    (tuned, BUDGET),
    (scaled, ZERO3),
    (scaled, ZERO2),
    (pairs, [("compiled", 4), ("eager", 4)]),
    (pairs, [("compiled", 8), ("eager", 8)]),
    (ppo, [("ppo_32", "compiled"), ("ppo_32", "eager")]),
    (ppo, [("ppo_nf4", "again")]),
    (ppo, LONGER),
    (ppo, GROWN[1:]),
    (ppo, MANY),
    (ppo, [("growth_32_2048", "long")]),
    (scaled, FAST),
    (scaled, SHARED),
    (rm_lora, RM_LORA),
    (scaled, FOUR_MODELS),
    (loading, QLORA),
]
TIME = [
    (tuned, [("sft_full", name) for name in WHOLE]),
    (tuned, [("sft_full", "plain")]),
    (tuned, [("sft_lora", name) for name in LORA]),
    (tuned, [("sft_lora", "plain")]),
    (tuned, [("sft_full_32", "2 rows"), ("sft_full_32", "4 rows"), ("sft_lora_32", "4 rows")]),
    (tuned, BUDGET),
    (scaled, ZERO3),
    (scaled, ZERO2),
    (pairs, [("compiled", 4), ("eager", 4)]),
    (pairs, [("compiled", 8), ("eager", 8)]),
    (ppo, [("ppo_32", "compiled"), ("ppo_32", "eager")]),
    (ppo, LONGER),
    (ppo, [*GROWN, ("growth_32_2048", "long")]),
    (ppo, MANY),
    (scaled, FAST),
    (scaled, SHARED),
    (rm_lora, RM_LORA),
    (scaled, FOUR_MODELS),
    (ppo, [("ppo_nf4", "again")]),
    (qlora, QLORA[1:]),
    (qlora, QLORA[:1]),
    (rollout, [(64,), (16,), (64, "_h200"), (16, "_h200")]),
]


def table(title: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """The rows behind that heading: what they say, and the figures of both columns."""
    lines = PAGE.read_text(encoding="utf-8").partition(f"{title} | planned |\n| --- ")[2]
    for line in lines.partition("\n\n")[0].splitlines()[1:]:
        name, *figures = line.strip("| ").split(" | ")
        found, planned = (re.findall(r"[\d.]+", each) for each in figures)
        yield name, found, planned


def test_memory_is_as_measured_and_planned():
    for (name, found, planned), (figures, cases) in zip(table("GiB"), MEMORY, strict=True):
        reckoned = [figures(*case) for case in cases]
        assert found == [f"{one[0]:.2f}" for one in reckoned], name
        assert planned == written(planned, [one[2] for one in reckoned]), name


def test_time_is_as_measured_and_planned():
    for (name, found, planned), (figures, cases) in zip(table("seconds"), TIME, strict=True):
        reckoned = [figures(*case) for case in cases]
        assert found == written(found, [one[1] for one in reckoned]), name
        assert planned == written(planned, [one[3] for one in reckoned]), name


def written(there: list[str], values: list[float]) -> list[str]:
    """To as many decimals as are there."""
    decimals = [len(text.partition(".")[2]) for text in there]
    return [f"{value:.{places}f}" for value, places in zip(values, decimals, strict=True)]


@pytest.mark.parametrize("model", scaling_table.MODELS)
@pytest.mark.parametrize("method", scaling_table.METHODS)
def test_eight_gpus_are_as_the_script_reckons(model, method):
    """The first of three rows each; the others come from the same numbers."""
    name, changes = scaling_table.MODELS[model], scaling_table.METHODS[method]
    config = scaling_table.config_for(f"configs/{name}.yaml", 8, changes)
    assert scaling_table.row(model, method, config, 8) in PAGE.read_text(encoding="utf-8")
