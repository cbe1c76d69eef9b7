"""One seed of configs/smollm2_135m.yaml with all that is measured on it; run.py starts it.

    python benchmarks/smollm2/seed.py SEED [--set KEY=VALUE ...]

Runs in the folder that holds weights/, data/ and runs/. Every piece is made once: what is finished
is reused, what was interrupted goes on. In the end result.json lies in the run's directory.

    run         all stages: SFT of both sizes, collection, DPO, reward model, PPO, evaluation
    policy      rlhf evaluate policy: PPO and DPO against SFT, with KL and the reward model's score
    variants    reward models on as many rankings of two responses: the family's own, and those of
                others (hh's), ranked by the same judge, tested on the same held-out pairs
    best-of-n   rlhf evaluate best-of-n
"""

from __future__ import annotations

import argparse
import json
import random
import signal
from collections.abc import Iterable
from pathlib import Path

from results import seed_result

from rlhf.apps import best_of_n, evaluate_policy, run
from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import RankingRecord, RankingTask, pair_grades
from rlhf.runtime.distributed import make_runtime
from rlhf.runtime.files import write_text
from rlhf.runtime.run_dir import RunDir
from stages.collect import rank_by_judge

CONFIG = Path(__file__).resolve().parents[2] / "configs/smollm2_135m.yaml"
PREFERENCES = Path("data/smollm2/preferences.jsonl")
VARIANTS = ("family-two", "off-family")
NEEDS = {
    "sft": (),
    "collect": ("sft/main", "sft/small"),
    "dpo": ("sft/main",),
    "rm": ("sft/main",),
    "ppo": ("sft/main", "rm"),
    "evaluate": ("sft/main", "ppo/actor", "dpo"),
    "afterwards": ("sft/main", "ppo/actor", "dpo", "rm"),
}
"""The models that each stage reads, and what is measured on a run after its stages."""
SAMPLES, PROMPTS = 32, 100
"""Answers to each of so many prompts, for best of n."""


def main() -> None:
    # A shell that starts this in the background has it ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--best-of", type=int, nargs=2, default=(SAMPLES, PROMPTS))
    arguments = parser.parse_args()
    overrides = [*arguments.overrides, f"seed={arguments.seed}"]
    base = load_config(CONFIG, overrides)
    overrides.append(f"name={base.name}-seed{arguments.seed}")
    config = load_config(CONFIG, overrides)
    if (config.run_dir / "result.json").is_file():
        return
    how = {"only": None, "redo": None, "rehearsal": False}
    run.run(config, start=start(RunDir(config.run_dir)), **how)
    if not (config.run_dir / "evaluate/report/report.json").is_file():
        evaluate_policy.evaluate_policy(
            config.run_dir, [], evaluate_policy.JudgeChoice(), None, None
        )
    rankings = variant_rankings(config)
    for name in VARIANTS:
        variant = load_config(
            CONFIG, [*overrides, *variant_overrides(config, name, rankings[name])]
        )
        run.run(variant, start=None, **how)
    if not (config.run_dir / "evaluate/best_of_n.jsonl").is_file():
        best_of_n.sample(config.run_dir, None, *arguments.best_of)
    write_text(
        config.run_dir / "result.json", json.dumps(seed_result(config.run_dir), indent=1) + "\n"
    )


def start(run_dir: RunDir) -> str | None:
    """The stage to go on from: the first that is unfinished, or that makes weights which are gone
    and which later work reads. What comes before it is left as it is, without its weights."""
    order = [*NEEDS][:-1]
    unfinished = [stage for stage in order if not run_dir.is_done(stage)]
    first = [*NEEDS].index(unfinished[0]) if unfinished else len(order)
    needed = {model for stage in [*NEEDS][first:] for model in NEEDS[stage]}
    gone = [model for model in needed if not _has_weights(run_dir.root / model)]
    places = [order.index(model.partition("/")[0]) for model in gone]
    place = min([first, *places])
    return order[place] if 0 < place < len(order) else None if place == 0 else order[-1]


def _has_weights(directory: Path) -> bool:
    return any((directory / f"{kind}.safetensors").is_file() for kind in ("model", "adapter_model"))


def variant_overrides(config: Config, name: str, rankings: Path) -> list[str]:
    """A reward model alone, from the run's SFT model, tested on the run's held-out rankings."""
    unread = ("sft", "sft_eval", "prompts", "prompts_eval")
    return [
        f"name={config.name}-{name}",
        "stages=[collect, rm]",
        "dpo=null",
        "annotation={source: file, judge: null, grading: null}",
        *(f"data.{key}=null" for key in unread),
        f"data.rankings={rankings}",
        f"data.rankings_eval={config.run_dir}/collect/eval_rankings.jsonl",
        "data.allow_leakage=true",
        f"rm.model={config.run_dir}/sft/main",
        "rm.data.off_family=allow",
    ]


def variant_rankings(config: Config) -> dict[str, Path]:
    """Rankings of two responses, equally many from the family and from elsewhere, by variant."""
    folder = config.run_dir / "variants"
    paths = {name: folder / f"{name}.jsonl" for name in VARIANTS}
    if all(path.is_file() for path in paths.values()):
        return paths
    runtime = make_runtime(config, RunDir(config.run_dir))
    collected = list(read_jsonl(config.run_dir / "collect/rankings.jsonl", RankingRecord))
    family = list(pairs_of(collected, config.seed))
    asked = {record.prompt.id for record in collected}
    others = [
        RankingTask(id=pair.id, prompt=pair.prompt, responses=pair.responses)
        for pair in read_jsonl(PREFERENCES, RankingRecord)
        if pair.prompt.id in asked
    ]
    judge = config.annotation.judge
    assert judge is not None, "the config names one"
    ranked = rank_by_judge(others, Path(judge), config, runtime)
    off_family = [record for record in ranked if len(set(record.ranks)) == 2]
    count = min(len(family), len(off_family))
    draw = random.Random(config.seed)
    for name, records in zip(VARIANTS, (family, off_family), strict=True):
        write_jsonl(paths[name], draw.sample(records, count))
    return paths


def pairs_of(records: Iterable[RankingRecord], seed: int) -> Iterable[RankingRecord]:
    """Two responses that do not tie, drawn of each ranking; what is all tied is left out."""
    for record in records:
        ranks = list(enumerate(record.ranks))
        untied = [(i, j) for i, a in ranks for j, b in ranks[i + 1 :] if a != b]
        if untied:
            yield _pair(record, *random.Random(f"{seed}:{record.id}").choice(untied))


def _pair(record: RankingRecord, i: int, j: int) -> RankingRecord:
    """The ranking of two responses, whose ranks become neighbours."""
    (pair,) = pair_grades((record.ranks[i], record.ranks[j]), record.grades)
    return record.model_copy(
        update={
            "responses": (record.responses[i], record.responses[j]),
            "ranks": (1, 2) if pair.chosen == 0 else (2, 1),
            "grades": () if pair.grade is None else (pair.grade,),
        }
    )


if __name__ == "__main__":
    main()
