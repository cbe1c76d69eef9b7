from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.config.load import load_config
from rlhf.config.schema import BalanceSection
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord, Provenance, RankingTask, Response
from rlhf.evaluation.answers import Answer, Scorer
from rlhf.runtime.distributed import make_runtime
from rlhf.runtime.run_dir import RunDir
from stages.collect import choose, rank_by_judge

SOURCE = Provenance(family="baichuan", model="m", size="7b", stage="sft")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """900 prompts of one category, 100 of another."""
    question = (Message(role="user", content="Q"),)
    paths = [("a", "b", "c")] * 900 + [("a", "b", "d")] * 100
    records = (
        PromptRecord(id=str(n), messages=question, category=path) for n, path in enumerate(paths)
    )
    write_jsonl(tmp_path / "prompts.jsonl", records)
    return tmp_path / "prompts.jsonl"


def rare(chosen: list[PromptRecord]) -> int:
    assert len({prompt.id for prompt in chosen}) == len(chosen)
    return Counter(prompt.category for prompt in chosen)["a", "b", "d"]


def test_every_prompt_alike_without_balance(prompts: Path) -> None:
    assert rare(choose(prompts, 200, None, seed=0)) == pytest.approx(20, abs=12)
    assert len(choose(prompts, 5000, None, seed=0)) == 1000


def test_balance_evens_out_the_level_that_it_names(prompts: Path) -> None:
    # Shares 0.9 and 0.1 become their square roots, 3 to 1.
    by_tertiary = choose(prompts, 200, BalanceSection(level=3, temperature=2), seed=0)
    assert rare(by_tertiary) == pytest.approx(45, abs=15)
    by_secondary = choose(prompts, 200, BalanceSection(level=2, temperature=2), seed=0)
    assert rare(by_secondary) == pytest.approx(20, abs=12)
    assert len(choose(prompts, 5000, BalanceSection(), seed=0)) == 1000


def test_every_task_gets_the_scores_of_its_own_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that likes length, asked about all responses together."""
    asked: list[tuple[int, int]] = []

    def scores(prompts: list[PromptRecord], answers: list[Answer], batch_size: int) -> list[float]:
        asked.append((len(answers), batch_size))
        assert [prompt.id for prompt in prompts] == ["a", "a", "b", "b", "b", "c", "c"]
        # Every task's first was cut off, of its second nobody knows.
        assert [answer.ended for answer in answers] == [False, True, False, True, True, False, True]
        return [float(len(answer.text)) for answer in answers]

    monkeypatch.setattr(Scorer, "load", lambda *where: SimpleNamespace(scores=scores))
    monkeypatch.setattr("stages.collect.score_statistics", lambda judge: (0.0, 1.0))
    texts = {"a": ("xx", "x"), "b": ("x", "xxx", "xx"), "c": ("x", "x")}
    tasks = [
        RankingTask(
            id=name,
            prompt=PromptRecord(id=name, messages=(Message(role="user", content="Q"),)),
            responses=tuple(
                Response(id=f"{name}{n}", text=text, provenance=SOURCE, stop_reason=end)
                for n, (text, end) in enumerate(zip(each, ("length", None, "eos"), strict=False))
            ),
        )
        for name, each in texts.items()
    ]
    config = load_config("tiny", ["collect.batch_size=5"])
    runtime = make_runtime(config, RunDir(tmp_path))
    ranked = list(rank_by_judge(tasks, tmp_path, config, runtime))
    assert [record.ranks for record in ranked] == [(1, 2), (3, 1, 2), (1, 1)]
    assert asked == [(7, 5)]
