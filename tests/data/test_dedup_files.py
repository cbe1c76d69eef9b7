from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.data import jsonl
from rlhf.data.dedup import documents, files
from rlhf.data.dedup.documents import read_documents
from rlhf.data.dedup.files import dedup_files
from rlhf.data.dedup.leaks import CLOSEST
from rlhf.data.dedup.scores import RepeatCounter
from rlhf.data.jsonl import Rejection

NEAR = "one two three four five six seven eight nine ten {}"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, *rows: Any) -> Path:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / name).write_bytes(b"\n".join(lines))
        return tmp_path / name

    return write


def sft(identity: str, question: str, answer: str, system: str = "be brief") -> dict[str, Any]:
    turns = [("system", system), ("user", question), ("assistant", answer)]
    messages = [{"role": role, "content": text} for role, text in turns]
    return {"id": identity, "messages": messages, "source": "x"}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_scores_count_only_what_other_documents_have() -> None:
    counter = RepeatCounter()
    for text in (
        "Same one! Only here. Same two? 3.14 is pi.\nShared line.",
        "same  ONE！\nonly there",  # full width; its paragraph is a sentence of the first
        "SHARED line.\n\nTwice inside. Twice inside.",
        "only there",
        "Only There",
    ):
        counter.add(text)
    scores = list(counter.scores())
    assert scores[0] == {"document": 0.0, "paragraphs": 0.5, "sentences": 0.4}  # 2 of 5
    assert scores[1] == {"document": 0.0, "paragraphs": 0.5, "sentences": 1.0}
    assert scores[2] == {"document": 0.0, "paragraphs": 0.5, "sentences": 0.3333}
    assert scores[3] == scores[4] == {"document": 1.0, "paragraphs": 1.0, "sentences": 1.0}
    assert list(RepeatCounter().scores()) == []


def test_files_are_one_set_and_every_line_goes_somewhere(write: Write, tmp_path: Path) -> None:
    text = {"id": "t1", "text": NEAR.format("x")}
    first = write("a.jsonl", text, b"{", sft("s1", "如何煮汤", "先洗番茄再切成小块"), {"text": " "})
    second = write(
        "b.jsonl",
        {"text": NEAR.format("y")},
        sft("s2", "如何煮汤？", "先洗番茄，再切成小块。", system="another system prompt here"),
        {"text": 'he said "messages" twice'},
    )
    out = tmp_path / "out"
    report = dedup_files([first, second], out, 0.7)
    assert (report.documents, report.kept, report.dropped, report.same) == (5, 3, 2, 1)
    kept = (out / "kept.jsonl").read_bytes().splitlines()
    sources = first.read_bytes().splitlines(), second.read_bytes().splitlines()
    assert kept == [sources[0][0], sources[0][2], sources[1][2]]
    dropped = rows(out / "dropped.jsonl")
    assert [(row["similarity"], row["kept"]["id"], row["kept"]["line"]) for row in dropped] == [
        (0.8, "t1", 1),
        (1.0, "s1", 3),
    ]
    assert dropped[1]["id"] == "s2" and dropped[1]["record"] == json.loads(sources[1][1])
    assert [(row["line"], row["file"]) for row in rows(out / "rejected.jsonl")] == [
        (2, str(first)),
        (4, str(first)),
    ]
    scores = rows(out / "scores.jsonl")
    assert [row["line"] for row in scores] == [1, 3, 1, 2, 3]
    written = json.loads((out / "report.json").read_text())
    assert (
        written["repeated"]
        == report.repeated
        == {level: round(sum(row[level] for row in scores) / 5, 4) for level in report.repeated}
    )
    assert (report.rejected, report.held_out, report.leaked) == (2, 0, 0)


def test_questions_must_not_be_held_out(write: Write, tmp_path: Path) -> None:
    train = write("train.jsonl", sft("s1", NEAR.format("x"), "a"), sft("s2", "why not", "b"))
    prompts = [
        {"id": "p1", "messages": [{"role": "user", "content": NEAR.format("y")}]},
        {"id": "p2", "messages": [{"role": "user", "content": "something else"}]},
    ]
    report = dedup_files([train], tmp_path / "out", 0.7, [write("held.jsonl", *prompts)])
    assert (report.held_out, report.leaked, report.kept) == (2, 1, 2)
    (leak,) = rows(tmp_path / "out/leaked.jsonl")
    assert leak["id"] == "p1" and leak["document"]["id"] == "s1" and leak["similarity"] == 0.8


def test_of_many_equal_questions_a_few_are_named(write: Write, tmp_path: Path) -> None:
    asked = [NEAR.format("x"), *[NEAR.format("y")] * 300]
    train = write("train.jsonl", *(sft(str(n), each, f"a {n}") for n, each in enumerate(asked)))
    held = write("held.jsonl", *(sft(f"h{n}", NEAR.format("y"), "a") for n in range(50)))
    report = dedup_files([train], tmp_path / "out", 0.7, [held])
    assert (report.held_out, report.leaked) == (50, 50)
    leaks = rows(tmp_path / "out/leaked.jsonl")
    assert [row["id"] for row in leaks] == [f"h{n}" for n in range(50) for _ in range(CLOSEST)]
    assert [row["document"]["id"] for row in leaks[:CLOSEST]] == ["1", "2", "3", "4", "5"]
    assert {(row["similarity"], row["documents"]) for row in leaks} == {(1.0, 301)}


def test_rankings_are_documents_too(write: Write, tmp_path: Path) -> None:
    def ranking(identity: str, question: str, *answers: str) -> dict[str, Any]:
        prompt = {"id": "p", "messages": [{"role": "user", "content": question}]}
        responses = [{"id": text, "text": text, "provenance": {}} for text in answers]
        return {"id": identity, "prompt": prompt, "responses": responses, "ranks": [1, 2]}

    train = write(
        "rankings.jsonl",
        ranking("r1", NEAR.format("x"), "a", "b"),
        ranking("r2", NEAR.format("x"), "quite another", "pair of answers"),
        ranking("r3", NEAR.format("x"), "a", "b"),
    )
    prompt = {"id": "p1", "messages": [{"role": "user", "content": NEAR.format("y")}]}
    report = dedup_files([train], tmp_path / "out", 0.8, [write("held.jsonl", prompt)])
    assert (report.kept, report.same, report.leaked, report.rejected) == (2, 1, 1, 0)


def test_the_kind_is_told_by_the_keys_of_the_line_itself(write: Write, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "responses"}, {"role": "assistant", "content": "messages"}]
    ranking = {"prompt": {"messages": turns[:1]}, "responses": [{"text": "text"}]}
    file = write(
        "mixed.jsonl",
        {"id": "a", "messages": turns, "metadata": {"responses": "[1]", "text": 1}},
        {"id": "b", "messages": turns[:1]},
        {"id": "c", "text": "plain", "metadata": {"messages": [], "responses": []}},
        {"id": "d", "text": "messages", "source": "messages"},
        {"id": "e", **ranking},
        {"id": "f", "messages": [], "metadata": {"responses": 1}},
        {"id": "g", "metadata": {"responses": 1, "messages": 1}},
        {"id": "h", "responses": [{"text": "a"}]},
        b'{"id": "i", "responses": [',
        b'["responses", "messages"]',
    )
    bad: list[Rejection] = []
    found = [(line.document.id, line.document.whole()) for line in read_documents([file], bad)]
    assert found == [
        ("a", "responses\nmessages"),
        ("b", "responses"),
        ("c", "plain"),
        ("d", "messages"),
        ("e", "responses\ntext"),
    ]
    reasons = [rejection.reason for rejection in bad]
    assert reasons[:3] == [
        "messages: has 0 items where at least 1 must be",
        "text: Field required",
        "prompt: Field required",
    ]
    assert reasons[3].startswith("not JSON: ") and reasons[4] == "Input should be an object"


def test_nearly_every_line_is_read_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def parse(raw: bytes, model: Any) -> Any:
        read.append(raw)
        return jsonl.parse(raw, model)

    monkeypatch.setattr(documents, "parse", parse)
    ranking = {"prompt": {"messages": [{"role": "user", "content": "a"}]}, "responses": []}
    file = write("a.jsonl", sft("s", "what", "that"), ranking, {"text": 'he said "messages"'})
    assert len(list(read_documents([file]))) == len(read) == 3


def test_nothing_to_do_and_nothing_overwritten(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no line with messages or a text"):
        dedup_files([write("a.jsonl", b"{")], tmp_path, 0.8)
    with pytest.raises(ValueError, match="would be overwritten"):
        dedup_files([write("kept.jsonl", {"text": "a"})], tmp_path, 0.8)
    with pytest.raises(ValueError, match="no such file"):
        dedup_files([tmp_path / "absent.jsonl"], tmp_path, 0.8)


def test_every_input_is_there_before_one_is_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(files, "read_documents")
    train = write("train.jsonl", {"text": "a"})
    with pytest.raises(ValueError, match=r"absent\.jsonl: no such file"):
        dedup_files([train], tmp_path / "out", 0.8, [tmp_path / "absent.jsonl"])
    with pytest.raises(ValueError, match=f"{tmp_path}: a folder; name a file in it"):
        dedup_files([train, tmp_path], tmp_path / "out", 0.8)
