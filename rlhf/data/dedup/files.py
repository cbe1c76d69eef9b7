"""Deduplication of JSONL files: of records, and of lines that have just a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rlhf.data.dedup.documents import Line, read_documents
from rlhf.data.dedup.leaks import find_leaks, leak_rows
from rlhf.data.dedup.meaning import MeaningReport, Meanings, meanings
from rlhf.data.dedup.near import NearDuplicate, deduplicate
from rlhf.data.dedup.scores import LEVELS, RepeatCounter
from rlhf.data.dedup.vectors import DocumentVectors
from rlhf.data.jsonl import Rejection, check_file, one_line, whole_files
from rlhf.runtime.files import write_text

OUTPUTS = tuple(f"{name}.jsonl" for name in ("kept", "dropped", "scores", "leaked", "rejected"))


class _Match(NamedTuple):
    """A duplicate and what it was found by."""

    pair: NearDuplicate
    measure: str  # jaccard or cosine

    @property
    def found(self) -> dict[str, object]:
        return {"similarity": round(self.pair.similarity, 4), "measure": self.measure}


@dataclass(frozen=True)
class DedupReport:
    """What was dropped, and how much the documents repeat each other.

    rejected: lines that are no document. same: dropped with Jaccard index 1.
    repeated: mean over documents of the share of the document, of its paragraphs and of its
        sentences that another document has too.
    repeated_ids: kept documents whose id an earlier one has; a run takes no file with such.
    held_out, leaked: documents of the held-out files, and those near-duplicate to one of `files`.
    embeddings: what vectors found beyond that, if there were any.
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
    repeated_ids: int
    held_out: int
    leaked: int
    embeddings: MeaningReport | None


def dedup_files(
    files: Sequence[Path],
    out_dir: Path,
    threshold: float,
    against: Sequence[Path] = (),
    vectors: DocumentVectors | None = None,
) -> DedupReport:
    """Keeps the first of every set of duplicates in the files, which count as one set.

    Writes to `out_dir`: kept.jsonl, the lines as they were; dropped.jsonl, with the kept document
    and the similarity; scores.jsonl, a line a document; leaked.jsonl, the documents of `against`
    with those closest to them; rejected.jsonl, lines that are no document; report.json. Files are
    streamed more than once; what stays in memory is hashes, and vectors.

    Args:
        threshold: Jaccard index from which two conversations, without the system's turn, are
            duplicates; with held-out conversations the user's turns are compared.
        against: held-out files.
        vectors: find further duplicates and leaks, by what documents mean.

    Raises:
        ValueError: a file is missing or would be overwritten, there is no document in `files`, or
            a file of vectors has not one for each document.
    """
    for file in (*files, *against):
        check_file(file)
        if file.resolve() in {(out_dir / name).resolve() for name in OUTPUTS}:
            raise ValueError(f"{file}: would be overwritten; name another folder with --out")
    bad: list[Rejection] = []
    repeats = RepeatCounter()
    kept, near = deduplicate(_counted(read_documents(files, bad), repeats), threshold)
    if not kept:
        raise ValueError(f"{', '.join(map(str, files))}: no line with messages or a text")
    count, same = len(kept) + len(near), sum(pair.similarity == 1 for pair in near)
    held_out = list(read_documents(against, bad))
    leaks = find_leaks(files, held_out, count, threshold, vectors)
    meant = meanings(lambda: _wholes(files), kept, vectors) if vectors else None
    dropped = _matches(near, meant)
    repeated, repeated_ids = _write_parts(files, out_dir, dropped, repeats, meant)
    report = DedupReport(
        files=tuple(map(str, files)),
        against=tuple(map(str, against)),
        threshold=threshold,
        rejected=len(bad),
        documents=count,
        kept=count - len(dropped),
        dropped=len(dropped),
        same=same,
        repeated=repeated,
        repeated_ids=repeated_ids,
        held_out=len(held_out),
        leaked=len({leak.held_out for leak in leaks}),
        embeddings=meant.report() if meant else None,
    )
    with whole_files(out_dir / "leaked.jsonl", out_dir / "rejected.jsonl") as (leaked, rejected):
        for row in leak_rows(files, held_out, leaks):
            _write(leaked, row)
        for rejection in bad:
            rejected.write(rejection.to_json())
    write_text(out_dir / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    return report


def _wholes(files: Sequence[Path]) -> Iterator[str]:
    return (line.document.whole() for line in read_documents(files))


def _matches(near: Sequence[NearDuplicate], meant: Meanings | None) -> dict[int, _Match]:
    """The dropped documents by index; the first of each pair is one that is kept."""
    alike = meant.dropped if meant else []
    kept_for = {pair.second: pair.first for pair in alike}
    pairs = [pair._replace(first=kept_for.get(pair.first, pair.first)) for pair in near]
    found = [_Match(pair, "jaccard") for pair in pairs] + [_Match(pair, "cosine") for pair in alike]
    return {match.pair.second: match for match in found}


def _counted(lines: Iterable[Line], repeats: RepeatCounter) -> Iterator[str]:
    for line in lines:
        text = line.document.whole()
        repeats.add(text)
        yield text


def _write_parts(
    files: Sequence[Path],
    out_dir: Path,
    dropped: Mapping[int, _Match],
    repeats: RepeatCounter,
    meant: Meanings | None,
) -> tuple[dict[str, float], int]:
    """Writes kept, dropped and scores; returns the mean scores, and how many ids come again."""
    originals: dict[int, dict[str, object]] = {match.pair.first: {} for match in dropped.values()}
    totals, count = dict.fromkeys(LEVELS, 0.0), 0
    ids, repeated_ids = set[int](), 0  # by their hashes, as all that stays in memory
    parts = [out_dir / name for name in ("kept.jsonl", "dropped.jsonl", "scores.jsonl")]
    more = meant.scores() if meant else repeat({})
    with whole_files(*parts) as (kept_out, dropped_out, scores_out):
        lines = zip(read_documents(files), repeats.scores(), strict=True)
        for count, ((line, scores), alike) in enumerate(zip(lines, more, strict=False), start=1):
            place, match = line.place, dropped.get(count - 1)
            if count - 1 in originals:
                originals[count - 1] = place
            if match is None:
                kept_out.write(line.raw.rstrip(b"\r\n") + b"\n")
                if line.document.id is not None:
                    repeated_ids += hash(line.document.id) in ids
                    ids.add(hash(line.document.id))
            else:
                found = match.found | {"kept": originals[match.pair.first]}
                _write(dropped_out, place | found | {"record": json.loads(line.raw)})
            _write(scores_out, {**place, **scores, **alike})
            totals = {level: totals[level] + scores[level] for level in LEVELS}
    return {level: round(total / count, 4) for level, total in totals.items()}, repeated_ids


def _write(stream: BinaryIO, row: Mapping[str, object]) -> None:
    stream.write(one_line(json.dumps(row, ensure_ascii=False).encode()))
