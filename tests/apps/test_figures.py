"""Which paths a report can have, known from the config alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rlhf.apps.figures import check_metrics
from rlhf.config.load import load_config
from rlhf.config.schema import Config
from tests.stages.worlds import miniature


@pytest.fixture
def config(tmp_path) -> Config:
    miniature("base", tmp_path)
    path = tmp_path / "base.yaml"
    values: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    values |= {"dpo": None, "capabilities": None}
    values["evaluate"] = {**values.get("evaluate", {}), "extra_sft": False}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize("name", ["rm", "ppo"])
def test_the_packaged_ablations_name_what_there_is(name):
    config = load_config(f"ablations/{name}")
    assert config.ablation is not None
    check_metrics(config, config.ablation.metrics)


@pytest.mark.parametrize(
    "path",
    ["sft.tokens", "sft.models.main.tokens", "rm.kendall.tau", "rm.trend.grade.z", "rm.ece",
     "rm.temperature.value", "ppo.kl_last", "ppo.judge.length.matched.win", "run.minutes",
     "data.curation.kept"],
)  # fmt: skip
def test_what_a_report_may_hold_passes(config, path):
    check_metrics(config, {"figure": path})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("rm.acuracy", "no rm.acuracy; there are pairs, accuracy, ci_low"),
        ("rm.kendall.taus", "no rm.kendall.taus; there are rankings, tau"),
        ("rm.kendall", "rm.kendall is no number"),
        ("rm.by_grade.3", "no rm.by_grade.3"),
        ("sft.loss", "no sft.loss; there are eval_loss_before"),
        ("ppo.kl", "no ppo.kl; there are iterations, score_first"),
        ("ppo.judge.wins", "no ppo.judge.wins; there are name, prompts, win"),
        ("ppo.judge_dpo.win", "no ppo.judge_dpo.win"),
        ("ppo.judge_extra_sft.win", "no ppo.judge_extra_sft.win"),
        ("dpo.judge.win", "no dpo.judge.win; there are sft, rm"),
        ("capabilities.tax", "no capabilities.tax"),
    ],
)
def test_what_none_can_hold_is_refused(config, path, message):
    with pytest.raises(ValueError, match=f"ablation.metrics: .*{message}"):
        check_metrics(config, {"figure": path})
