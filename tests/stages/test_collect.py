from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rlhf.config.schema import BalanceSection
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord
from stages.collect import choose


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
