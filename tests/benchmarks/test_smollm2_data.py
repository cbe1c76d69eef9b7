"""What benchmarks/smollm2/data.py makes of files in the published layouts, written here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import PromptRecord, RankingRecord, SFTRecord

FILE = Path(__file__).parents[2] / "benchmarks/smollm2/data.py"
NOUNS = "bridge candle desert engine forest garden hammer island jacket kettle".split()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smollm2_data", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Ten questions, each in a conversation, as a prompt and in two pairs; one more in Chinese."""
    moss = tmp_path / "moss"
    moss.mkdir()

    def write(path: Path, rows: list[dict[str, object]]) -> None:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    asked = [f"Please explain to me how one makes the {noun} of a {noun}." for noun in NOUNS]
    chats = [
        {"turn_1": {"Human": f"<|Human|>: {q}<eoh>\n", "MOSS": f"<|MOSS|>: {q} So.<eom>\n"}}
        for q in [*asked, "怎么做桥？"]
    ]
    write(
        moss / "harmless.jsonl", [{"meta_instruction": "You are MOSS.", "chat": c} for c in chats]
    )
    for name in ("honest", "helpful_brainstorming"):
        write(moss / f"{name}.jsonl", [{"chat": chats[0]}])
    write(
        moss / "user_prompts.jsonl",
        [{"category": "helpful_role_playing", "user_prompt": q} for q in asked],
    )
    turns = [
        f"\n\nHuman: {q}{more}\n\nAssistant:"
        for q in asked
        for more in ("", "\n\nAssistant: Why?\n\nHuman: Just so.")
    ]
    write(
        tmp_path / "hh_harmless.jsonl",
        [{"chosen": f"{t} Like this.", "rejected": f"{t} No."} for t in turns],
    )
    return tmp_path


def test_every_question_is_on_one_side(script: ModuleType, sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = script.prepare(sources, out)
    kinds = {
        "sft": SFTRecord,
        "healing": SFTRecord,
        "prompts": PromptRecord,
        "preferences": RankingRecord,
    }
    turns = {}
    for kind, record in kinds.items():
        for name in (kind, f"{kind}_eval"):
            records = list(read_jsonl(out / f"{name}.jsonl", record))
            assert len(records) == summary["records"][name] > 0
            turns[name] = {script.first_turn(each) for each in records}
    train = turns["sft"] | turns["healing"] | turns["prompts"] | turns["preferences"]
    held_out = set().union(*(turns[f"{kind}_eval"] for kind in kinds))
    assert train.isdisjoint(held_out) and len(train | held_out) == len(NOUNS)
    # 20 pairs, of which the ten that ask but once have the words of MOSS's prompts.
    assert summary["records"]["prompts"] + summary["records"]["prompts_eval"] == 20
    assert summary["records"]["sft"] + summary["records"]["sft_eval"] == 12
    for record in read_jsonl(out / "sft.jsonl", SFTRecord):
        assert record.messages[0].role == "user" and record.messages[0].content.isascii()
    assert {p.label for p in read_jsonl(out / "prompts.jsonl", PromptRecord)} == {
        "helpful",
        "harmless",
    }
