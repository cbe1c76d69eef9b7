"""What the report reads: the files of one run directory, and which of them are missing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf.config.load import safe_yaml
from rlhf.data.jsonl import Record, read_jsonl
from rlhf.data.records import RankingRecord
from rlhf.evaluation import best_of_n, capabilities
from rlhf.evaluation.best_of_n import AnswerRow
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.evaluation.policy import JudgeRow
from rlhf.evaluation.preference import PairRow
from rlhf.runtime.manifest import StageManifest
from rlhf.runtime.run_dir import RunDir

Metrics = list[dict[str, float]]
Source = tuple[str, str, str]  # family, size, stage
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class SFTFiles:
    """One model's supervised stage; `summary` is None until it has finished."""

    metrics: Metrics
    summary: dict[str, Any] | None


@dataclass(frozen=True)
class Collected:
    """Ranked prompts, and responses by source, of one split."""

    prompts: int
    responses: Counter[Source]
    simulated: bool


@dataclass(frozen=True)
class RoundFiles:
    """Collection, reward model and PPO of one round."""

    number: int
    train: Collected
    held_out: Collected
    provenance: dict[str, Any] | None
    rm_metrics: Metrics
    pairs: list[PairRow]
    ppo_metrics: Metrics
    ppo_summary: dict[str, Any] | None
    judge: list[JudgeRow]

    @property
    def simulated(self) -> bool:
        """Simulated annotators ranked for this round."""
        pairs = any(row.simulated for row in self.pairs)
        return self.train.simulated or self.held_out.simulated or pairs


@dataclass(frozen=True)
class RunFiles:
    """A run directory as the report sees it. `rounds`: in order; the last is the run's result.

    dpo_*: of the last round's DPO, where there is one. judge_dpo: DPO against SFT; judge_ppo_dpo
    and judge_extra_sft: PPO against those baselines. best_of_n: many answers to each prompt.
    capabilities: the benchmarks of each model, where the config asks for them.
    """

    config: dict[str, Any]
    config_hash: str
    stages: dict[str, StageManifest]
    sft: dict[str, SFTFiles]
    rounds: list[RoundFiles]
    dpo_metrics: Metrics
    dpo_summary: dict[str, Any] | None
    judge_extra_sft: list[JudgeRow]
    judge_dpo: list[JudgeRow]
    judge_ppo_dpo: list[JudgeRow]
    best_of_n: list[AnswerRow]
    capabilities: dict[str, list[QuestionRow]]
    curation: dict[str, Any] | None

    @property
    def last(self) -> RoundFiles:
        return self.rounds[-1]


def load(run_dir: Path) -> RunFiles:
    """Reads what is there; an absent file gives an empty part.

    Raises:
        ValueError: not a run directory, or a damaged file.
    """
    config_file = run_dir / "config.yaml"
    if not config_file.is_file():
        raise ValueError(f"{run_dir}: no config.yaml; name a run directory, such as runs/tiny")
    text = config_file.read_bytes()
    rounds = (path for path in (run_dir / "rounds").glob("*") if path.name.isdecimal())
    earlier = sorted(rounds, key=lambda path: int(path.name))
    models = [path for path in (run_dir / "sft").glob("*") if path.is_dir()]
    models.sort(key=lambda path: (path.name != "main", path.name))
    return RunFiles(
        config=safe_yaml(text),
        config_hash=hashlib.sha256(text).hexdigest()[:12],
        stages=RunDir(run_dir).manifests(),
        sft={
            path.name: SFTFiles(read_metrics(path), _json(path / "summary.json")) for path in models
        },
        rounds=[_round(path, i) for i, path in enumerate([*earlier, run_dir], start=1)],
        dpo_metrics=read_metrics(run_dir / "dpo"),
        dpo_summary=_json(run_dir / "dpo" / "summary.json"),
        judge_extra_sft=_rows(run_dir / "evaluate" / "judge_sft_extra.jsonl", JudgeRow),
        judge_dpo=_rows(run_dir / "evaluate" / "judge_dpo.jsonl", JudgeRow),
        judge_ppo_dpo=_rows(run_dir / "evaluate" / "judge_ppo_dpo.jsonl", JudgeRow),
        best_of_n=best_of_n.read(run_dir),
        capabilities=capabilities.read(run_dir),
        curation=_json(run_dir / "data" / "curation.json"),
    )


def missing(files: RunFiles) -> list[str]:
    """What the config promises and the run directory does not hold, one sentence each."""
    config, last = files.config, files.last
    expected = {
        "sft/main/summary.json: supervised fine-tuning has not finished": (
            "main" in files.sft and files.sft["main"].summary
        ),
        "collect/rankings.jsonl: no ranked responses yet": last.train.prompts,
        "rm/pairs.jsonl: the reward model has not been evaluated": last.pairs,
        "ppo/summary.json: PPO has not finished": last.ppo_summary,
        "ppo/judge.jsonl: the policy has not been judged": last.judge,
        "evaluate/judge_sft_extra.jsonl: no comparison at equal compute": (
            files.judge_extra_sft or not config.get("evaluate", {}).get("extra_sft")
        ),
        "dpo/summary.json: DPO has not finished": files.dpo_summary or not config.get("dpo"),
        "data/curation.json: no report of the crowd batches": (
            files.curation or not config.get("sft", {}).get("curation")
        ),
        "capabilities: the benchmarks have not been run": (
            files.capabilities or not config.get("capabilities")
        ),
    }
    return [sentence for sentence, present in expected.items() if not present]


def _round(directory: Path, number: int) -> RoundFiles:
    return RoundFiles(
        number=number,
        train=_collected(directory / "collect" / "rankings.jsonl"),
        held_out=_collected(directory / "collect" / "eval_rankings.jsonl"),
        provenance=_json(directory / "rm" / "provenance.json"),
        rm_metrics=read_metrics(directory / "rm"),
        pairs=_rows(directory / "rm" / "pairs.jsonl", PairRow),
        ppo_metrics=read_metrics(directory / "ppo"),
        ppo_summary=_json(directory / "ppo" / "summary.json"),
        judge=_rows(directory / "ppo" / "judge.jsonl", JudgeRow),
    )


def _collected(path: Path) -> Collected:
    prompts, simulated = 0, False
    responses: Counter[Source] = Counter()
    for record in _stream(path, RankingRecord):
        prompts += 1
        simulated = simulated or record.simulated
        sources = (response.provenance for response in record.responses)
        responses.update((source.family, source.size, source.stage) for source in sources)
    return Collected(prompts, responses, simulated)


def _rows(path: Path, model: type[R]) -> list[R]:
    return list(_stream(path, model))


def _stream(path: Path, model: type[R]) -> Iterator[R]:
    if path.is_file() and path.stat().st_size:
        yield from read_jsonl(path, model)


def read_metrics(directory: Path) -> Metrics:
    """The rows of a stage's metrics.jsonl, none where it has not begun.

    A value that was not finite, which the log writes as null, is left out of its row.
    """
    path = directory / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = (_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line)
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def _json(path: Path) -> dict[str, Any] | None:
    return _parsed(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error}); delete it and run its stage again"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a JSON object; delete it and run its stage again")
    return value
