"""What report.json will hold, known before anything runs: a made-up run's report has its keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rlhf.config.schema import Config
from rlhf.data.datasets import RankingDataset
from rlhf.evaluation import ablation, capabilities, margin_report, policy
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.evaluation.policy import JudgeRow
from rlhf.evaluation.preference import PairRow
from rlhf.ppo.loop import PPOSummary
from rlhf.training.dpo import DPOSummary
from rlhf.training.rankings import Preferences
from rlhf.training.sft import SFTSummary

_PAIR = PairRow(
    id="pair",
    prompt_id="prompt",
    chosen_id="chosen",
    rejected_id="rejected",
    chosen_score=1.0,
    rejected_score=0.0,
    margin=1.0,
    grade=3,
    chosen_size="7B",
    rejected_size="7B",
    chosen_stage="sft",
    rejected_stage="sft",
    chosen_length=10,
    rejected_length=20,
    chosen_refusal=False,
    rejected_refusal=False,
    oracle_gap=1.0,
)
_VERDICT = JudgeRow(
    id="prompt",
    prompt_id="prompt",
    prompt="?",
    before="a",
    after="b",
    verdict="win",
    before_quality=0.0,
    after_quality=1.0,
    judge="judge",
)
_QUESTION = QuestionRow(id="question", task="task", metric="metric", shots=0, value=1.0)


def check_metrics(config: Config, metrics: Mapping[str, str]) -> None:
    """Raises ValueError for a path of `ablation.metrics` that no report of this run can have.

    Below a null of the made-up report, whose keys are then the data's, any path passes.
    """
    report = _report(config)
    for path in metrics.values():
        ablation.figure(report, _known_part(report, path))


def _known_part(report: Mapping[str, Any], path: str) -> str:
    """The path down to the first null, or all of it."""
    value: Any = report
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if value is None:
            return ".".join(parts[:depth])
        if not isinstance(value, Mapping) or part not in value:
            break
        value = value[part]
    return path


def _report(config: Config) -> dict[str, Any]:
    """The parts with numbers, as `summary.summarise` puts them together."""
    judged = policy.summarise([_VERDICT])
    nothing = Preferences(RankingDataset((), 0, 0, 0), RankingDataset((), 0, 0, 0), 0, 0)
    report: dict[str, Any] = {
        "sft": {**_zeros(SFTSummary), "models": None},
        "rm": margin_report.build([_PAIR]),
        "run": None,
        "data": None,
        "ppo": {**_zeros(PPOSummary), "judge": judged},
    }
    if config.evaluate.extra_sft:
        report["ppo"]["judge_extra_sft"] = judged
    if config.dpo:
        report["ppo"]["judge_dpo"] = judged
        report["dpo"] = {**_zeros(DPOSummary), **nothing.counts, "judge": judged}
    if config.capabilities:
        report["capabilities"] = capabilities.summarise({"base": [_QUESTION], "sft": [_QUESTION]})
    return report


def _zeros(summary: Any) -> dict[str, float]:
    return {field.name: 0.0 for field in fields(summary)}
