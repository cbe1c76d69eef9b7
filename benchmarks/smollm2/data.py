"""Others' published files into what the configs of SmolLM2 read, split by prompt.

    python benchmarks/smollm2/data.py SOURCES OUT

SOURCES holds hh_harmless.jsonl (Anthropic hh-rlhf, harmless-base) and moss/ (MOSS-003: harmless,
honest and helpful_brainstorming.jsonl, user_prompts.jsonl). Only what is in English is taken.

A prompt is known by its first turn: near-duplicates are one, and all that begins with it is on one
side. OUT gets, each also as *_eval.jsonl (held out):

    sft          MOSS's conversations
    healing      these and hh's preferred transcripts, to train a pruned model on
    prompts      MOSS's prompts, and hh's conversations up to the answer
    preferences  hh's pairs, as people ranked them: the judge learns from these

and summary.json with counts and the sources' hashes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rlhf.data.dedup import near_duplicates, normalise
from rlhf.data.formats import convert
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import Message, PromptRecord, RankingRecord, SFTRecord
from rlhf.data.split import held_out_split
from rlhf.runtime.files import hash_path

MOSS = ("harmless", "honest", "helpful_brainstorming")
LABELS = {"harmless": "harmless", "helpful": "helpful"}
HELD_OUT, THRESHOLD = 0.16, 0.8
LONGEST = 1500  # characters of a prompt, all its turns
AnyRecord = TypeVar("AnyRecord", SFTRecord, PromptRecord, RankingRecord)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sources", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    summary = prepare(arguments.sources, arguments.out, arguments.seed)
    print(json.dumps(summary["records"], indent=1))


def prepare(sources: Path, out: Path, seed: int = 0) -> dict[str, object]:
    """Write the files, and return what summary.json says."""
    demonstrations = [each for name in MOSS for each in _demonstrations(sources, name)]
    asked = [
        _labelled(p) for p in _read(sources / "moss/user_prompts.jsonl", "prompts", PromptRecord)
    ]
    pairs = _read(sources / "hh_harmless.jsonl", "hh-rlhf", RankingRecord)
    pairs = [pair for pair in pairs if _fits(pair.prompt.messages)]
    asked = [prompt for prompt in asked if _fits(prompt.messages)]
    dialogues = [_labelled(pair.prompt, "harmless") for pair in pairs]
    prompts = _once([*asked, *dialogues])
    healing = [*demonstrations, *(_transcript(pair) for pair in pairs)]
    kinds: dict[str, Sequence[SFTRecord] | Sequence[PromptRecord] | Sequence[RankingRecord]] = {
        "sft": demonstrations,
        "healing": healing,
        "prompts": prompts,
        "preferences": pairs,
    }
    held = held_out_turns(
        [first_turn(each) for records in kinds.values() for each in records], seed
    )
    counts = {}
    for kind, records in kinds.items():
        train = [each for each in records if first_turn(each) not in held]
        held_out = [each for each in records if first_turn(each) in held]
        train = _unlike(train, held_out)
        random.Random(seed).shuffle(held_out)
        for name, part in ((kind, train), (f"{kind}_eval", held_out)):
            write_jsonl(out / f"{name}.jsonl", part)
            counts[name] = len(part)
    files = [sources / "hh_harmless.jsonl", *sorted((sources / "moss").glob("*.jsonl"))]
    summary = {"records": counts, "seed": seed, "sources": {f.name: hash_path(f) for f in files}}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def held_out_turns(turns: Iterable[str], seed: int) -> set[str]:
    """The first turns to hold out; near-duplicates stay together."""
    distinct = sorted({normalise(turn): turn for turn in turns}.values())
    held = held_out_split(distinct, HELD_OUT, THRESHOLD, seed).held_out
    chosen = {normalise(distinct[index]) for index in held}
    return {turn for turn in turns if normalise(turn) in chosen}


def first_turn(record: SFTRecord | PromptRecord | RankingRecord) -> str:
    """What the user said first."""
    messages = record.prompt.messages if isinstance(record, RankingRecord) else record.messages
    return next(message.content for message in messages if message.role == "user")


def _questions(record: SFTRecord | PromptRecord | RankingRecord) -> str:
    messages = record.prompt.messages if isinstance(record, RankingRecord) else record.messages
    return "\n".join(message.content for message in messages if message.role == "user")


def _unlike(train: list[AnyRecord], held_out: Sequence[AnyRecord]) -> list[AnyRecord]:
    """Without what has other first words and all else in common with a held-out one."""
    asked, other = [_questions(each) for each in train], [_questions(each) for each in held_out]
    leaks = {pair.second for pair in near_duplicates(other, asked, THRESHOLD)}
    return [each for index, each in enumerate(train) if index not in leaks]


def _demonstrations(sources: Path, name: str) -> list[SFTRecord]:
    """Conversations without MOSS's system message: the model has its own."""
    records = _read(sources / f"moss/{name}.jsonl", "moss-003", SFTRecord)
    label = LABELS.get(name.partition("_")[0])
    plain = []
    for record in records:
        turns = tuple(message for message in record.messages if message.role != "system")
        if all(_english(message.content) for message in turns):
            plain.append(
                record.model_copy(update={"messages": turns, "label": label, "language": "en"})
            )
    return plain


def _transcript(pair: RankingRecord) -> SFTRecord:
    best = pair.responses[pair.ranks.index(1)].text
    messages = (*pair.prompt.messages, Message(role="assistant", content=best))
    return SFTRecord(id=pair.id, messages=messages, source="hh-rlhf", language="en")


def _labelled(prompt: PromptRecord, label: str | None = None) -> PromptRecord:
    kind = prompt.metadata.get("category", "").partition("_")[0]
    return prompt.model_copy(update={"label": label or LABELS.get(kind), "language": "en"})


def _once(prompts: Iterable[PromptRecord]) -> list[PromptRecord]:
    """Of several with the same turns the first."""
    kept = {tuple(m.content for m in prompt.messages): prompt for prompt in reversed([*prompts])}
    return [*reversed(kept.values())]


def _fits(messages: Sequence[Message]) -> bool:
    text = "\n".join(message.content for message in messages)
    return len(text) <= LONGEST and _english(text)


def _english(text: str) -> bool:
    """Nearly all of it ASCII, and no Chinese character."""
    ascii_share = sum(char.isascii() for char in text) / max(1, len(text))
    return ascii_share >= 0.95 and not any("\u4e00" <= char <= "\u9fff" for char in text)


def _read(path: Path, format: str, kind: type[AnyRecord]) -> list[AnyRecord]:
    """The file's records, with its name in their ids."""
    with tempfile.TemporaryDirectory() as folder:
        convert(format, path, folder)
        records = list(read_jsonl(Path(folder) / "records.jsonl", kind))
    return [each.model_copy(update={"id": f"{path.stem}/{each.id}"}) for each in records]


if __name__ == "__main__":
    main()
