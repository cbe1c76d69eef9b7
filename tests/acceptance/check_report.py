"""Checks what a finished run shows: python tests/acceptance/check_report.py RUN_DIR [--structure]

Every run: the report is whole. Without --structure also the numbers that the tiny run has to reach.
What it cost is told, not checked: the same work takes twice the CPU seconds on a machine that
others use too. The committed run, from a quiet one, is held to the bound
(tests/benchmarks/test_tiny.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Claim = tuple[str, bool]
"""What has to hold, with the number found, and whether it does."""
Report = dict[str, Any]

KEYS = {
    "sft": {"eval_loss_before", "eval_loss_after", "tokens"},
    "rm": {
        "pairs",
        "accuracy",
        "by_grade",
        "by_margin",
        "ece",
        "by_category",
        "length_correlation",
    },
    "ppo": {
        "iterations",
        "score_first",
        "score_last",
        "kl_last",
        "response_length_first",
        "response_length_last",
        "judge",
    },
}
STAGES = ("sft/main", "collect", "rm", "ppo")


def structure(run_dir: Path, report: Report) -> Iterator[Claim]:
    """The fixed contract of a run directory and its report."""
    for part, keys in KEYS.items():
        lacking = keys - set(report[part] or {})
        yield f"report.json: {part} is whole (lacks {sorted(lacking)})", not lacking
    yield f"nothing is missing ({report['missing']})", report["missing"] == []
    bins = report["rm"]["by_margin"]
    yield "margin bins hold every pair", sum(row["pairs"] for row in bins) == report["rm"]["pairs"]
    judge = report["ppo"]["judge"]
    yield "the judge's verdicts are counts", judge["win"] + judge["tie"] + judge["lose"] > 0
    page = (run_dir / "report/index.html").read_text(encoding="utf-8")
    yield "the page says that annotators are simulated", "<strong>Simulated annotators." in page
    yield "the report has plots", len(list((run_dir / "report").glob("*.png"))) >= 3
    manifests = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))["stages"]
    unfinished = [key for key, stage in manifests.items() if stage["status"] != "done"]
    yield f"every stage is done (not: {unfinished})", unfinished == []
    for stage in STAGES:
        yield f"{stage} is in the manifest", stage in manifests
    for stage in ("sft/main", "rm", "ppo"):
        yield f"{stage} has metrics", (run_dir / stage / "metrics.jsonl").stat().st_size > 0
        yield f"{stage} has TensorBoard files", any((run_dir / stage / "tensorboard").iterdir())


def numbers(report: Report) -> Iterator[Claim]:
    """What the tiny run must show, from real training."""
    yield from sft_numbers(report["sft"])
    yield from rm_numbers(report["rm"])
    yield from ppo_numbers(report["ppo"])
    last = max(row["round"] for row in report["data"]["responses"])
    sources = [row for row in report["data"]["responses"] if row["round"] == last]
    yield "the last reward model learns from two sizes", len({row["size"] for row in sources}) >= 2
    stages = {row["stage"] for row in sources}
    yield "the last reward model learns from SFT and PPO", stages >= {"sft", "ppo"}
    memory = report["run"]["peak_memory_gib"]
    yield f"memory below 4 GiB ({memory:.2f})", memory < 4


def sft_numbers(sft: Report) -> Iterator[Claim]:
    fall = 1 - sft["eval_loss_after"] / sft["eval_loss_before"]
    yield f"SFT: held-out loss falls by 60 % ({fall:.1%})", fall >= 0.6
    yield (
        f"SFT: it has levelled, below 5 % at the end ({sft['plateau']:.1%})",
        sft["plateau"] < 0.05,
    )


def rm_numbers(rm: Report) -> Iterator[Claim]:
    yield f"RM: 400 held-out pairs ({rm['pairs']})", rm["pairs"] >= 400
    counts = {row["grade"]: row["pairs"] for row in rm["by_grade"]}
    yield f"RM: 40 pairs in each grade ({counts})", all(counts.get(g, 0) >= 40 for g in range(1, 6))
    yield f"RM: accuracy at least 0.70 ({rm['accuracy']:.3f})", rm["accuracy"] >= 0.7
    for prefix, labels in (("", "the annotators'"), ("oracle_", "noise-free")):
        for name, table in (("grade", rm["by_grade"]), ("margin", rm["by_margin"])):
            if prefix and name == "grade":
                continue  # noise-free labels take from the grade what its noise gave it
            shown = [round(row[f"{prefix}accuracy"], 3) for row in table]
            test = rm["trend"][prefix + name]
            yield (
                f"RM: rises with the {name} on {labels} labels ({shown}, "
                f"clustered p {test['clustered_p_value']:.1e}, drop {test['drop']})",
                rises(shown, test),
            )


def rises(shown: list[float], test: Report) -> bool:
    """By the trend test, from first to last, and with no step down that chance does not explain."""
    drop = test["drop"]
    no_drop = drop is None or drop["p_value"] >= 0.05
    return no_drop and test["clustered_p_value"] < 0.001 and shown[-1] > shown[0]


def ppo_numbers(ppo: Report) -> Iterator[Claim]:
    for key, baseline in (("judge", "SFT"), ("judge_extra_sft", "SFT at equal compute")):
        judge = ppo[key]
        prompts = judge["win"] + judge["tie"] + judge["lose"]
        lead = (judge["win"] - judge["lose"]) / prompts
        yield f"PPO: judged against {baseline} on 200 prompts ({prompts})", prompts >= 200
        yield f"PPO: win minus lose against {baseline} is +0.20 ({lead:+.2f})", lead >= 0.2
    yield f"PPO: KL below 10 nats a response ({ppo['kl_last']:.2f})", ppo["kl_last"] < 10
    scores = ppo["score_first"], ppo["score_last"]
    yield "PPO: the score rises ({:.2f} to {:.2f})".format(*scores), scores[1] > scores[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--structure", action="store_true", help="leave the numbers out")
    arguments = parser.parse_args()
    report = json.loads((arguments.run_dir / "report/report.json").read_text(encoding="utf-8"))
    claims = list(structure(arguments.run_dir, report))
    if not arguments.structure:
        claims += numbers(report)
    for claim, holds in claims:
        print(f"{'ok    ' if holds else 'FAILED'} {claim}")
    run = report["run"]
    print(f"cost   {run['core_minutes']:.1f} core-minutes, {run['minutes']:.1f} minutes")
    if not all(holds for _, holds in claims):
        sys.exit(f"{arguments.run_dir}: the report does not show what it must")


if __name__ == "__main__":
    main()
