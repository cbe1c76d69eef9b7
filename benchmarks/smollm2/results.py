"""What a run of SmolLM2 has come to: of a seed, from its run directory; of all, as one JSON.

    python benchmarks/smollm2/results.py RUNS benchmarks/results/smollm2_135m.json

RUNS holds the runs of run.py, or what its logs.tar.xz unpacks to: no weights are read. Every number
of docs/results.md about SmolLM2 is in that JSON; page.py writes the one from the other. With
--unfinished it is of runs whose PPO was cut off: fine-tuning, reward model, and PPO as far as it
came.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import yaml

from rlhf.data.jsonl import read_jsonl
from rlhf.evaluation import best_of_n, margin_report, policy, run_files
from rlhf.evaluation.policy import JudgeRow
from rlhf.evaluation.preference import PairRow
from rlhf.evaluation.statistics import mean_interval
from rlhf.runtime.run_dir import RunDir

Json = dict[str, Any]
RM = ("pairs", "accuracy", "ci_low", "ci_high")
ANSWERS = 10
"""Prompts whose answers are shown side by side, by policy.samples' rule."""
LAST_ANSWERS = 40
"""That PPO kept before it was cut off: the last ten iterations', four each."""
CURVE = ("step", "kl", "score_gain", "judge_gain", "response_length", "eos_rate")
BINS = 8
"""Of PPO's iterations in order of KL, to find where score and judge part."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--unfinished", action="store_true")
    arguments = parser.parse_args()
    found = unfinished(arguments.runs) if arguments.unfinished else merged(arguments.runs)
    arguments.result.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(found['seeds'])} seeds -> {arguments.result}")


def seed_result(run: Path) -> Json:
    """The numbers of one finished seed; the pieces after the run itself have to be there too."""
    files = run_files.load(run)
    report = json.loads((run / "evaluate/report/report.json").read_text())
    pairs = list(read_jsonl(run / "rm/pairs.jsonl", PairRow))
    rm = margin_report.build(pairs)
    judged = {"PPO": files.last.judge, "DPO": files.judge_dpo}
    policies = []
    for entry in report["policies"]:
        rows = judged[entry["name"]]
        kept = ("name", "prompts", "win", "tie", "lose", "win_minus_lose", "ci_low", "ci_high")
        kept += ("kl", "proxy", "length", "win_rate", "length_controlled", "by_label")
        policies.append({key: entry[key] for key in kept} | judge_gain(rows))
    curve = [row for row in report["curve"] if "judge_gain" in row]
    return {
        "seed": files.config["seed"],
        "judge": files.last.judge[0].judge,
        "simulated": all(row.simulated for row in files.last.judge),
        "sft": {name: sft.summary for name, sft in files.sft.items()},
        "rm": {
            **{key: rm[key] for key in (*RM, "clustered", "by_grade", "ece", "trend")},
            "kendall": {key: rm["kendall"][key] for key in ("tau", "ci_low", "ci_high")},
            "length_correlation": rm["length_correlation"],
            "responses": sum(files.last.train.responses.values()),
        },
        "rm_variants": {
            path.name.removeprefix(f"{run.name}-"): variant(path)
            for path in sorted(run.parent.glob(f"{run.name}-*"))
            if (path / "rm/pairs.jsonl").is_file()
        },
        "policies": policies,
        "curve": curve,
        "parting": parting(curve),
        "best_of_n": best_of_n.curve(files.best_of_n),
        "samples": [_sample(row) for row in policy.samples(files.last.judge, ANSWERS)],
        "stages": stages(run),
    }


def unfinished(runs: Path) -> Json:
    """What there is of runs whose PPO was cut off: no verdicts on finished policies."""
    found = []
    for path in sorted(runs.glob("smollm2_135m*-seed*/ppo/metrics.jsonl")):
        run = path.parents[1]
        rm = margin_report.build(list(read_jsonl(run / "rm/pairs.jsonl", PairRow)))
        config = yaml.safe_load((run / "config.yaml").read_text())
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        answers = (run / "ppo/samples.jsonl").read_text().splitlines()[-LAST_ANSWERS:]
        manifests = RunDir(run).manifests()
        found.append(
            {
                "seed": config["seed"],
                "kl": config["ppo"]["kl"],
                "sft": {key: manifests[f"sft/{key}"].summary for key in ("main", "small")},
                "rm": {key: rm[key] for key in (*RM, "by_grade")},
                "curve": [{key: round(row[key], 4) for key in CURVE} for row in rows],
                "last_answers": [json.loads(line) for line in answers],
                "stages": stages(run),
            }
        )
    return {
        "workload": "smollm2_135m, PPO cut off",
        "hardware": json.loads((runs.parent / "hardware.json").read_text()),
        "versions": RunDir(runs / "smollm2_judge").manifests()["rm"].versions,
        "judge": variant(runs / "smollm2_judge"),
        "seeds": found,
    }


def variant(run: Path) -> Json:
    """A reward model's accuracy, and how many rankings it had."""
    rm = margin_report.build(list(read_jsonl(run / "rm/pairs.jsonl", PairRow)))
    rankings = sum(1 for _ in (run / "collect/rankings.jsonl").open("rb"))
    return {key: rm[key] for key in (*RM, "by_grade")} | {"rankings": rankings}


def judge_gain(rows: Sequence[JudgeRow]) -> Json:
    """How much better the judge thinks of a policy than of SFT, in deviations of SFT's answers."""
    spread = pstdev(row.before_quality for row in rows) or 1.0
    gains = [(row.after_quality - row.before_quality) / spread for row in rows]
    mean, low, high = mean_interval(gains)
    return {"judge_gain": mean, "judge_gain_low": low, "judge_gain_high": high}


def parting(curve: Sequence[Mapping[str, float]]) -> Json | None:
    """PPO's iterations in BINS of rising KL: where the judge is best, and what it is at the end.

    `kl_of_best` below the last bin's, with the score still higher there, is over-optimisation.
    """
    rows = sorted(curve, key=lambda row: row["kl"])
    size = len(rows) // BINS
    if not size:
        return None
    groups = [rows[i * size : (i + 1) * size if i < BINS - 1 else None] for i in range(BINS)]
    bins = [
        {key: fmean(row[key] for row in group) for key in ("kl", "score_gain", "judge_gain")}
        for group in groups
    ]
    best = max(bins, key=lambda each: each["judge_gain"])
    return {"bins": bins, "kl_of_best": best["kl"], "best": best["judge_gain"], "last": bins[-1]}


def stages(run: Path) -> list[Json]:
    """What every step took, of a finished or an unfinished run."""
    facts = ("seconds", "cpu_seconds", "peak_memory_gib", "status")
    return [
        {"stage": key, **{fact: getattr(manifest, fact) for fact in facts}}
        for key, manifest in RunDir(run).manifests().items()
    ]


def merged(runs: Path) -> Json:
    """All seeds that have finished, and means over them with Student's intervals."""
    results = sorted(runs.glob("smollm2_135m*-seed*/result.json"))
    if not results:
        raise SystemExit(f"{runs}: no smollm2_135m-seed*/result.json; run.py writes them")
    name = results[0].parent.name.rpartition("-seed")[0]
    suffix = name.removeprefix("smollm2_135m")  # of a preset's runs
    seeds = sorted((json.loads(path.read_text()) for path in results), key=lambda s: s["seed"])
    hardware = runs.parent / "hardware.json"
    manifests = RunDir(results[0].parent).manifests()
    versions: dict[str, str] = {}
    for manifest in manifests.values():
        versions |= manifest.versions
    judge = runs / f"smollm2_judge{suffix}"
    healed = runs / f"smollm2_100m{suffix}"
    return {
        "workload": name,
        "hardware": json.loads(hardware.read_text()) if hardware.is_file() else None,
        "versions": versions,
        "judge": {**variant(judge), "stages": stages(judge)},
        "healing": {
            "summary": json.loads((healed / "sft/main/summary.json").read_text()),
            "stages": stages(healed),
        },
        "means": means(seeds),
        "seeds": seeds,
    }


def means(seeds: Sequence[Json]) -> dict[str, Json]:
    """Every figure of `figures` as {mean, low, high, values}; no interval for one seed."""
    by_seed = [figures(seed) for seed in seeds]
    names = [name for name in by_seed[0] if all(name in each for each in by_seed)]
    found: dict[str, Json] = {}
    for name in names:
        values = [each[name] for each in by_seed]
        mean, low, high = mean_interval(values) if len(values) > 1 else (values[0], None, None)
        found[name] = {"mean": mean, "low": low, "high": high, "values": values}
    return found


def figures(seed: Json) -> dict[str, float]:
    """The headline figures of one seed, by name."""
    found = {}
    for model, summary in seed["sft"].items():
        for when in ("before", "after"):
            found[f"sft/{model}/eval_loss_{when}"] = summary[f"eval_loss_{when}"]
    found["rm/accuracy"] = seed["rm"]["accuracy"]
    for row in seed["rm"]["by_grade"]:
        found[f"rm/grade {row['grade']}"] = row["accuracy"]
    for name, rm in seed["rm_variants"].items():
        found[f"rm/{name}"] = rm["accuracy"]
    if {"rm/family-two", "rm/off-family"} <= found.keys():
        found["rm/family-two less off-family"] = found["rm/family-two"] - found["rm/off-family"]
    for entry in seed["policies"]:
        for key in ("win_minus_lose", "kl", "judge_gain"):
            found[f"{entry['name']}/{key}"] = entry[key]
        if entry["proxy"]:
            found[f"{entry['name']}/proxy_win_minus_lose"] = entry["proxy"]["win_minus_lose"]
        found[f"{entry['name']}/length_before"] = entry["length"]["before"]
        found[f"{entry['name']}/length_after"] = entry["length"]["after"]
        if entry["length"]["matched"]:
            found[f"{entry['name']}/matched"] = entry["length"]["matched"]["win_minus_lose"]
        if entry["length_controlled"]:
            found[f"{entry['name']}/length_controlled"] = entry["length_controlled"]["rate"]
    for row in seed["best_of_n"]:
        found[f"best of {row['n']}/kl"] = row["kl"]
        found[f"best of {row['n']}/judge_gain"] = row["quality_gain"]
        found[f"best of {row['n']}/score_gain"] = row["score_gain"]
    if seed["parting"]:
        found["PPO/kl_of_judge's best"] = seed["parting"]["kl_of_best"]
    found["seconds"] = sum(stage["seconds"] for stage in seed["stages"])
    found["peak_memory_gib"] = max(stage["peak_memory_gib"] for stage in seed["stages"])
    return {name: value for name, value in found.items() if value is not None}


def _sample(row: JudgeRow) -> Json:
    kept = ("prompt_id", "prompt", "before", "after", "verdict", "before_quality", "after_quality")
    return {key: getattr(row, key) for key in kept}


if __name__ == "__main__":
    main()
