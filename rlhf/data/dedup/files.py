"""Deduplication of JSONL files: of records, and of lines that have just a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

from pydantic import BaseModel, Field

from rlhf.data.dedup.near import NearDuplicate, deduplicate, near_duplicates
from rlhf.data.dedup.scores import LEVELS, RepeatCounter
from rlhf.data.jsonl import Rejection, Text, parse, read_lines, whole_files
from rlhf.runtime.files import write_text

OUTPUTS = tuple(f"{name}.jsonl" for name in ("kept", "dropped", "scores", "leaked", "rejected"))


class _Turn(BaseModel):
    role: str
    content: Text


class _Conversation(BaseModel):
    """What matters of a demonstration or a prompt."""

    id: str | None = None
    messages: Annotated[tuple[_Turn, ...], Field(min_length=1)]

    def whole(self) -> str:
        """All turns but the system's, which many conversations share."""
        return "\n".join(turn.content for turn in self.messages if turn.role != "system")

    def question(self) -> str:
        """What the user asked, all turns: the text that must not leak."""
        return "\n".join(turn.content for turn in self.messages if turn.role == "user")


class _Plain(BaseModel):
    """A line of plain text."""

    id: str | None = None
    text: Text

    def whole(self) -> str:
        return self.text

    def question(self) -> str:
        return self.text


class _Line(NamedTuple):
    file: Path
    number: int
    raw: bytes
    document: _Conversation | _Plain

    @property
    def place(self) -> dict[str, object]:
        return {"id": self.document.id, "file": str(self.file), "line": self.number}


@dataclass(frozen=True)
class DedupReport:
    """What was dropped, and how much the documents repeat each other.

    rejected: lines that are no document. same: dropped with Jaccard index 1.
    repeated: mean over documents of the share of the document, of its paragraphs and of its
        sentences that another document has too.
    held_out, leaked: documents of the held-out files, and those near-duplicate to one of `files`.
    """

    files: tuple[str, ...]
    against: tuple[str, ...]
    threshold: float
    rejected: int
    documents: int
    kept: int
    dropped: int
    same: int
    repeated: dict[str, float]
    held_out: int
    leaked: int


def dedup_files(
    files: Sequence[Path], out_dir: Path, threshold: float, against: Sequence[Path] = ()
) -> DedupReport:
    """Keeps the first of every set of duplicates in the files, which count as one set.

    Writes to `out_dir`: kept.jsonl, the lines as they were; dropped.jsonl, with the kept document
    and the similarity; scores.jsonl, a line a document; leaked.jsonl, the pairs with `against`;
    rejected.jsonl, lines that are no document; report.json. Files are streamed more than once;
    what stays in memory is hashes.

    Args:
        threshold: Jaccard index from which two conversations, without the system's turn, are
            duplicates; with held-out conversations the user's turns are compared.
        against: held-out files.

    Raises:
        ValueError: a file is missing or would be overwritten, or there is no document in `files`.
    """
    for file in (*files, *against):
        if file.resolve() in {(out_dir / name).resolve() for name in OUTPUTS}:
            raise ValueError(f"{file}: would be overwritten; name another folder with --out")
    bad: list[Rejection] = []
    repeats = RepeatCounter()
    kept, dropped = deduplicate(_counted(_lines(files, bad), repeats), threshold)
    if not kept:
        raise ValueError(f"{', '.join(map(str, files))}: no line with messages or a text")
    repeated = _write_parts(files, out_dir, dropped, repeats)
    held_out = list(_lines(against, bad))
    leaked = _write_leaks(files, held_out, out_dir, threshold)
    with whole_files(out_dir / "rejected.jsonl") as (stream,):
        for rejection in bad:
            stream.write(rejection.to_json())
    report = DedupReport(
        files=tuple(map(str, files)),
        against=tuple(map(str, against)),
        threshold=threshold,
        rejected=len(bad),
        documents=len(kept) + len(dropped),
        kept=len(kept),
        dropped=len(dropped),
        same=sum(pair.jaccard == 1 for pair in dropped),
        repeated=repeated,
        held_out=len(held_out),
        leaked=leaked,
    )
    write_text(out_dir / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    return report


def _lines(files: Iterable[Path], bad: list[Rejection] | None = None) -> Iterator[_Line]:
    """The documents of the files; lines that are none are added to `bad`."""
    for file in files:
        for number, raw in read_lines(file):
            try:
                yield _Line(file, number, raw, _document(raw))
            except ValueError as error:
                if bad is not None:
                    bad.append(Rejection.of(file, number, error, raw))


def _document(raw: bytes) -> _Conversation | _Plain:
    # A text that says "messages" has its quotes escaped: these belong to a key.
    return parse(raw, _Conversation) if b'"messages"' in raw else parse(raw, _Plain)


def _counted(lines: Iterable[_Line], repeats: RepeatCounter) -> Iterator[str]:
    for line in lines:
        text = line.document.whole()
        repeats.add(text)
        yield text


def _write_parts(
    files: Sequence[Path],
    out_dir: Path,
    dropped: Sequence[NearDuplicate],
    repeats: RepeatCounter,
) -> dict[str, float]:
    """Writes kept, dropped and scores; returns the mean scores."""
    pairs = {pair.second: pair for pair in dropped}
    originals: dict[int, dict[str, object]] = {pair.first: {} for pair in dropped}
    totals, count = dict.fromkeys(LEVELS, 0.0), 0
    parts = [out_dir / name for name in ("kept.jsonl", "dropped.jsonl", "scores.jsonl")]
    with whole_files(*parts) as (kept_out, dropped_out, scores_out):
        lines = zip(_lines(files), repeats.scores(), strict=True)
        for count, (line, scores) in enumerate(lines, start=1):
            place, pair = line.place, pairs.get(count - 1)
            if count - 1 in originals:
                originals[count - 1] = place
            if pair is None:
                kept_out.write(line.raw.rstrip(b"\r\n") + b"\n")
            else:
                match = {"similarity": round(pair.jaccard, 4), "kept": originals[pair.first]}
                _write(dropped_out, place | match | {"record": json.loads(line.raw)})
            _write(scores_out, place | scores)
            totals = {level: totals[level] + scores[level] for level in LEVELS}
    return {level: round(total / count, 4) for level, total in totals.items()}


def _write_leaks(
    files: Sequence[Path], held_out: Sequence[_Line], out_dir: Path, threshold: float
) -> int:
    """Writes the pairs of a document and a held-out one; returns how many of the latter."""
    pairs: list[NearDuplicate] = []
    if held_out:
        questions = (line.document.question() for line in _lines(files))
        held_questions = [line.document.question() for line in held_out]
        pairs = near_duplicates(questions, held_questions, threshold)
    wanted = {pair.first for pair in pairs}
    places = {i: line.place for i, line in enumerate(_lines(files)) if i in wanted}
    with whole_files(out_dir / "leaked.jsonl") as (stream,):
        for pair in pairs:
            match = {"similarity": round(pair.jaccard, 4), "document": places[pair.first]}
            _write(stream, held_out[pair.second].place | match)
    return len({pair.second for pair in pairs})


def _write(stream: BinaryIO, row: Mapping[str, object]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
