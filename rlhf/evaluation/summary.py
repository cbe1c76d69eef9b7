"""From the files of a run to report.json: every number that the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from rlhf.evaluation import best_of_n, capabilities, margin_report, policy
from rlhf.evaluation.best_of_n import AnswerRow
from rlhf.evaluation.policy import JudgeRow
from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.run_files import RoundFiles, RunFiles, missing

HEADLINE = ("pairs", "accuracy", "ci_low", "ci_high", "oracle_accuracy", "annotator_ceiling", "ece")
STAGE_FACTS = {"status", "started", "finished", "seconds", "cpu_seconds", "peak_memory_gib"}


def summarise(files: RunFiles) -> dict[str, Any]:
    """The contents of report.json. A part whose files are missing is None, and named in `missing`.

    sft, dpo, rm and ppo are the main model's and the last round's; `rounds` has every round's
    headline.
    """
    report = {
        "run": _run(files),
        "sft": _sft(files),
        "rm": _rm(files.last.pairs, files.best_of_n),
        "dpo": _dpo(files),
        "ppo": _ppo(files),
        "capabilities": capabilities.summarise(files.capabilities),
        "rounds": [_round(entry) for entry in files.rounds],
        "data": {
            "curation": files.curation,
            "responses": _responses(files),
            "provenance": files.last.provenance,
        },
        "missing": missing(files),
    }
    return {key: _without_nan(value) for key, value in report.items()}


def _run(files: RunFiles) -> dict[str, Any]:
    manifests = files.stages.values()
    versions: dict[str, str] = {}
    for manifest in manifests:
        versions.update(manifest.versions)
    return {
        "name": files.config["name"],
        "seed": files.config["seed"],
        "config_hash": files.config_hash,
        "finished": max((m.finished for m in manifests if m.finished), default=None),
        "versions": versions,
        "stages": [
            {"stage": key, **manifest.model_dump(include=STAGE_FACTS)}
            for key, manifest in files.stages.items()
        ],
        "minutes": sum(manifest.seconds for manifest in manifests) / 60,
        "core_minutes": sum(manifest.cpu_seconds for manifest in manifests) / 60,
        "peak_memory_gib": max((manifest.peak_memory_gib for manifest in manifests), default=None),
        "simulated_annotators": any(entry.simulated for entry in files.rounds),
    }


def _sft(files: RunFiles) -> dict[str, Any] | None:
    models = {name: sft.summary for name, sft in files.sft.items() if sft.summary}
    if "main" not in models:
        return None
    return {**models["main"], "models": models}


def _rm(pairs: Sequence[PairRow], answers: Sequence[AnswerRow]) -> dict[str, Any] | None:
    return margin_report.build(pairs, best_of_n.curve(answers)) if pairs else None


def _dpo(files: RunFiles) -> dict[str, Any] | None:
    if not files.dpo_summary and not files.judge_dpo:
        return None
    return {**(files.dpo_summary or {}), "judge": _judged(files.judge_dpo)}


def _ppo(files: RunFiles) -> dict[str, Any] | None:
    """PPO's own numbers, then the judge's: there may be either without the other."""
    last = files.last
    if not last.ppo_summary and not last.judge:
        return None
    return {
        **(last.ppo_summary or {}),
        "judge": _judged(last.judge),
        "judge_extra_sft": _judged(files.judge_extra_sft),
        "judge_dpo": _judged(files.judge_ppo_dpo),
    }


def _judged(rows: Sequence[JudgeRow]) -> dict[str, Any] | None:
    return policy.summarise(rows) if rows else None


def _round(entry: RoundFiles) -> dict[str, Any]:
    rm = _rm(entry.pairs, ())
    return {
        "round": entry.number,
        "rm": {key: rm[key] for key in HEADLINE if key in rm} if rm else None,
        "ppo": entry.ppo_summary,
        "judge": policy.tally(entry.judge) if entry.judge else None,
    }


def _responses(files: RunFiles) -> list[dict[str, Any]]:
    """Ranked responses by round and source: what the reward model learnt and was tested on."""
    table = []
    for entry in files.rounds:
        for source in sorted(entry.train.responses | entry.held_out.responses):
            family, size, stage = source
            table.append(
                {
                    "round": entry.number,
                    "family": family,
                    "size": size,
                    "stage": stage,
                    "train": entry.train.responses[source],
                    "held_out": entry.held_out.responses[source],
                }
            )
    return table


def _without_nan(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
