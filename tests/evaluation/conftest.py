"""A synthetic run directory: invented numbers in the real layout, to test the report against."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.config.schema import CurationSection
from rlhf.data.curation import curate
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import (
    Message,
    PromptRecord,
    Provenance,
    RankingRecord,
    Response,
    SFTRecord,
)
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.evaluation.policy import JudgeRow, compare_rows
from rlhf.evaluation.preference import pair_rows
from rlhf.runtime.manifest import StageManifest
from rlhf.runtime.run_dir import RunDir

CATEGORIES = (
    ("knowledge", "facts", "capital cities"),
    ("knowledge", "science", "physics"),
    ("writing", "letters", "thanks"),
    ("writing", "stories", "fables"),
    ("safety", "dangerous goods", "explosives"),
    ("safety", "privacy", "addresses"),
)
SOURCES = {
    1: (("1.1M", "sft"), ("1.6M", "sft")),
    2: (("1.1M", "ppo"), ("1.1M", "sft"), ("1.6M", "sft")),
}


def make_prompt(index: int) -> PromptRecord:
    category = CATEGORIES[index % len(CATEGORIES)]
    language = "zh" if index % 2 else "en"
    text = (
        f"请写一封感谢信给第 {index} 位老师。"
        if language == "zh"
        else f"Synthetic question {index}?"
    )
    return PromptRecord(
        id=f"prompt-{index:04d}",
        messages=(Message(role="user", content=text),),
        category=category,
        label="harmless" if category[0] == "safety" else "helpful",
        language=language,
    )


def quality(prompt: PromptRecord, text: str) -> float:
    """The synthetic oracle: written into the text."""
    return float(text.rsplit(" ", 1)[-1])


def make_ranking(index: int, split: str, sources: tuple[tuple[str, str], ...]) -> RankingRecord:
    rng = random.Random(f"{split}{index}{sources}")
    responses, noisy = [], []
    for k in range(4):
        size, stage = sources[k % len(sources)]
        true = rng.gauss(5 + (stage == "ppo"), 2)
        noisy.append(true + rng.gauss(0, 1))
        text = f"{'very ' * rng.randrange(8)}synthetic answer of quality {true:.3f}"
        provenance = Provenance(family="baichuan", model="synthetic", size=size, stage=stage)
        responses.append(Response(id=f"r{k}", text=text, provenance=provenance))
    order = sorted(range(4), key=lambda k: -noisy[k])
    gaps = [noisy[a] - noisy[b] for a, b in zip(order, order[1:], strict=False)]
    return RankingRecord(
        id=f"{split}-{index:04d}",
        prompt=make_prompt(index),
        responses=tuple(responses),
        ranks=tuple(order.index(k) + 1 for k in range(4)),
        grades=tuple(min(5, 1 + int(gap / 0.7)) for gap in gaps),
        annotator="synthetic",
        simulated=True,
    )


def make_scores(record: RankingRecord) -> list[float]:
    rng = random.Random(record.id)
    return [0.45 * quality(record.prompt, r.text) + rng.gauss(0, 0.7) for r in record.responses]


def make_verdicts(count: int, gain: float, **judge: Any) -> list[JudgeRow]:
    rng = random.Random(f"{gain}")
    prompts = [make_prompt(index) for index in range(count)]
    before = [round(rng.gauss(5, 2)) for _ in prompts]
    after = [old + round(rng.gauss(gain, 2)) for old in before]
    texts = [
        [f"一个合成的答案。\nA synthetic answer <b>{q}</b> & more." for q in side]
        for side in (before, after)
    ]
    return list(compare_rows(prompts, *texts, before, after, tolerance=0.25, **judge))


def write_lines(path: Path, rows: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def loss_rows(seed: int, start: float, end: float, steps: int) -> list[dict[str, float]]:
    rng = random.Random(seed)
    rows: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        loss = end + (start - end) * math.exp(-5 * step / steps)
        rows.append({"step": step, "loss": loss * rng.uniform(0.93, 1.07)})
        if step % max(1, steps // 10) == 0:
            rows.append({"step": step, "eval_loss": loss * 1.04})
    return rows


def write_sft(root: Path) -> None:
    for index, (name, end) in enumerate({"main": 0.72, "larger": 0.66}.items()):
        write_lines(root / "sft" / name / "metrics.jsonl", loss_rows(index, 6.9, end, 200))
        summary = {
            "eval_loss_before": 6.93,
            "eval_loss_after": end,
            "tokens": 1_234_567,
            "steps": 200,
        }
        write_json(root / "sft" / name / "summary.json", summary)


def write_round(root: Path, number: int) -> None:
    rng = random.Random(number)
    held_out = [make_ranking(index, "test", SOURCES[number]) for index in range(160)]
    write_jsonl(
        root / "collect" / "rankings.jsonl",
        [make_ranking(index, "train", SOURCES[number]) for index in range(1000, 1120)],
    )
    write_jsonl(root / "collect" / "eval_rankings.jsonl", held_out)
    rows = pair_rows(held_out, [make_scores(record) for record in held_out], quality)
    write_jsonl(root / "rm" / "pairs.jsonl", rows)
    write_lines(root / "rm" / "metrics.jsonl", loss_rows(number, 0.7, 0.42, 60))
    ppo = []
    for step in range(1, 121):
        progress = 1 - math.exp(-3 * step / 120)
        ppo.append(
            {
                "step": step,
                "score": -0.4 + 1.6 * progress + rng.gauss(0, 0.12),
                "kl": 6 * progress + abs(rng.gauss(0, 0.4)),
                "response_length": 24 + 6 * progress + rng.gauss(0, 1),
                "entropy": 1.4 - 0.7 * progress + rng.gauss(0, 0.03),
                "eos_rate": 0.8 + 0.18 * progress,
            }
        )
    write_lines(root / "ppo" / "metrics.jsonl", ppo)
    summary = {
        "iterations": 120,
        "score_first": ppo[0]["score"],
        "score_last": ppo[-1]["score"],
        "kl_last": ppo[-1]["kl"],
        "response_length_first": ppo[0]["response_length"],
        "response_length_last": ppo[-1]["response_length"],
        "flops": 3.2e13,
    }
    write_json(root / "ppo" / "summary.json", summary)
    verdicts = make_verdicts(220, 1.3, judge="rubric", simulated=True)
    write_jsonl(root / "ppo" / "judge.jsonl", verdicts)


def write_manifest(root: Path) -> None:
    names = (
        "data",
        "sft/main",
        "sft/larger",
        "rounds/1/collect",
        "rounds/1/rm",
        "rounds/1/ppo",
        "collect",
        "rm",
        "ppo",
    )
    for index, name in enumerate(names):
        manifest = StageManifest(
            stage=name.rsplit("/")[-1],
            status="done",
            config_hash=f"{index:012x}",
            inputs={},
            versions={"torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"},
            seconds=31.5 * (index + 1),
            cpu_seconds=52.5 * (index + 1),
            peak_memory_gib=0.8 + 0.1 * index,
            started=f"2026-01-02T03:{index:02d}:05+00:00",
            finished=f"2026-01-02T03:{index + 1:02d}:05+00:00",
        )
        RunDir(root).record(root / name, manifest)


def make_curation() -> dict[str, Any]:
    messages = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    records = [
        SFTRecord(
            id=f"{i}",
            messages=messages,
            source="synthetic",
            annotator=f"group {i % 3}",
            batch=f"{i % 9}",
        )
        for i in range(360)
    ]
    settings = CurationSection(sample=20, threshold=0.6)
    refused = {record.id for record in records if record.batch == "5"}
    result = curate(records, lambda record: record.batch != "4", settings, seed=0, refused=refused)
    return asdict(result.report)


def write_capabilities(root: Path) -> None:
    """Two tasks; of 40 questions each, every later model forgets two more."""
    for lost, model in enumerate(("base", "sft", "ppo-1", "ppo")):
        rows = [
            QuestionRow(
                task=task, metric="acc", id=f"{task}:{i}", shots=5, value=i % 2 * (i > 4 * lost)
            )
            for task in ("ceval-valid", "mmlu")
            for i in range(40)
        ]
        write_jsonl(root / "capabilities" / model / "questions.jsonl", rows)


def write_run(root: Path) -> Path:
    """A complete synthetic run of two rounds."""
    root.mkdir(parents=True, exist_ok=True)
    config = {
        "name": "synthetic",
        "seed": 7,
        "rounds": 2,
        "evaluate": {"extra_sft": True, "samples": 5},
        "capabilities": {"tasks": ["ceval-valid", "mmlu"]},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_sft(root)
    write_round(root / "rounds" / "1", 1)
    write_round(root, 2)
    extra = make_verdicts(220, 0.9, judge="rubric", simulated=True)
    write_jsonl(root / "evaluate" / "judge_sft_extra.jsonl", extra)
    write_json(root / "data" / "curation.json", make_curation())
    write_capabilities(root)
    write_manifest(root)
    return root


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "synthetic")
