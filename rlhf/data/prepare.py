"""From the files that a config names to what stages read: curated, split, checked for leakage."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf.config.schema import CurationSection, DataSection
from rlhf.data.curation import Auditor, CurationResult, curate, file_auditor
from rlhf.data.dedup import similar_of_each
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.quoted import check_quoted, quoted
from rlhf.data.records import PromptRecord, RankingRecord, SFTRecord, TextRecord
from rlhf.data.split import check_leakage, held_out_split
from rlhf.runtime.files import hash_path, hash_section, write_text

logger = logging.getLogger(__name__)

AnyRecord = SFTRecord | PromptRecord | RankingRecord
KINDS: dict[str, type[AnyRecord]] = {
    "sft": SFTRecord,
    "prompts": PromptRecord,
    "rankings": RankingRecord,
}
# (held out, learnt from): rankings are about answers, and are tested against rankings alone. What
# PPO is tested on, no stage has learnt from.
_MAY_MEET = {("sft", "rankings"), ("rankings", "sft"), ("rankings", "prompts")}
_TOO_LIKE = 0.1
"""Share of the texts in groups too large to hold out from which the run says so."""
STAMP = "sources.sha256"
"""File that says what the others were made from."""
OURS = (STAMP, "curation.json", *(f"{kind}{end}.jsonl" for kind in KINDS for end in ("", "_eval")))
"""All that `prepare` writes."""
Files = dict[str, list[AnyRecord]]
"""Records by kind."""


def prepare(
    section: DataSection,
    curation: CurationSection | None,
    auditor: Auditor | None,
    directory: Path,
    seed: int,
    pretraining: str | None = None,
) -> None:
    """Write sft.jsonl, prompts.jsonl, rankings.jsonl, each also as *_eval.jsonl (held out), and
    curation.json.

    Kinds that the section does not name are left out. Unchanged sources are not prepared again.

    Args:
        auditor: the authoritative verdicts; None reads them from `section.audits`.
        pretraining: the text that PPO mixes in, which no prompt that it is tested on may stand in.

    Raises:
        ValueError: a file is missing, damaged or empty, a sampled demonstration has no verdict, no
            batch of them was accepted, or held-out texts are near-duplicates of training texts.
    """
    if is_prepared(section, curation, directory, seed, pretraining):
        return
    train, held_out, curated = gathered(section, curation, auditor, directory, seed, pretraining)
    # Nothing of other sources may stay behind, nor pass for theirs after an interruption.
    for name in OURS:
        (directory / name).unlink(missing_ok=True)
    if curated is not None:
        report = json.dumps(asdict(curated.report), indent=1, ensure_ascii=False)
        write_text(directory / "curation.json", report)
    for kind in train:
        write_jsonl(directory / f"{kind}.jsonl", train[kind])
        write_jsonl(directory / f"{kind}_eval.jsonl", held_out[kind])
    write_text(directory / STAMP, _state(section, curation, seed, pretraining))


def gathered(
    section: DataSection,
    curation: CurationSection | None,
    auditor: Auditor | None,
    directory: Path,
    seed: int,
    pretraining: str | None = None,
) -> tuple[Files, Files, CurationResult | None]:
    """What `prepare` writes, and raises: records to learn from, held-out ones, the curation."""
    named = {kind: getattr(section, kind) for kind in KINDS if getattr(section, kind)}
    held_out_named = {kind: getattr(section, f"{kind}_eval") for kind in named}
    _check_apart([*named.values(), *held_out_named.values(), section.audits], directory)
    train = {kind: _read(path, kind) for kind, path in named.items()}
    curated = None
    if curation is not None and "sft" in train:
        curated = _curated(train["sft"], section, curation, auditor, seed)
        train["sft"] = list(curated.kept)
    held_out = {kind: _read(path, kind) for kind, path in held_out_named.items() if path}
    if pretraining and "prompts" in held_out and not section.allow_leakage:
        questions = _questions(held_out)["prompts"]
        check_quoted(pretraining, questions, section.near_duplicate_threshold)
    to_split = [kind for kind in named if kind not in held_out]
    train, split_off = _split(train, to_split, section, seed, pretraining)
    held_out |= split_off
    if not section.allow_leakage:
        threshold = section.near_duplicate_threshold
        check_leakage(_questions(train), _questions(held_out), threshold, _MAY_MEET)
    return train, held_out, curated


def _check_apart(sources: Sequence[str | None], directory: Path) -> None:
    """Raises ValueError for a source that would be replaced by what is made of it."""
    for source in sources:
        if source and Path(source).resolve().is_relative_to(directory.resolve()):
            raise ValueError(
                f"{source}: lies in {directory}, where the run puts what it makes of it; move it, "
                "or give the run another directory with --set name=..."
            )


def is_prepared(
    section: DataSection,
    curation: CurationSection | None,
    directory: Path,
    seed: int,
    pretraining: str | None = None,
) -> bool:
    """Whether `directory` has what these sections make of the sources as they are now.

    Raises ValueError when a source is not there.
    """
    stamp = directory / STAMP
    return stamp.is_file() and stamp.read_text("utf-8") == _state(
        section, curation, seed, pretraining
    )


def _state(
    section: DataSection, curation: CurationSection | None, seed: int, pretraining: str | None
) -> str:
    named = [kind for kind in KINDS if getattr(section, kind)]
    sources = [getattr(section, kind) for kind in named]
    sources += [getattr(section, f"{kind}_eval") for kind in named] + [section.audits, pretraining]
    hashes = [hash_path(Path(source)) for source in sources if source]
    return hash_section(section, curation, seed, hashes)


def _curated(
    records: Sequence[AnyRecord],
    section: DataSection,
    curation: CurationSection,
    auditor: Auditor | None,
    seed: int,
) -> CurationResult:
    verdicts, refused = (auditor, set[str]()) if auditor else file_auditor(section.audits)
    demonstrations = [record for record in records if isinstance(record, SFTRecord)]
    curated = curate(demonstrations, verdicts, curation, seed, refused)
    if not curated.kept:
        raise ValueError(
            f"{section.sft}: every batch was sent back ({curated.report.batches[0].reason}); "
            "have them written again, or lower sft.curation.threshold"
        )
    return curated


def _read(path: str, kind: str) -> list[AnyRecord]:
    return list(read_jsonl(path, KINDS[kind]))


def _split(
    train: Files, kinds: Sequence[str], section: DataSection, seed: int, pretraining: str | None
) -> tuple[Files, Files]:
    """Split the kinds without a held-out file together: a question is held out in all of them.

    Each kind gives its own share. None is held out that the others' training files have, where the
    two may not meet, nor a prompt that stands in the text that PPO mixes in.
    """
    if not kinds:
        return train, {}
    pool = [(kind, record) for kind in kinds for record in train[kind]]
    texts = [_question(record) for _, record in pool]
    fixed = [(kind, record) for kind in train if kind not in kinds for record in train[kind]]
    threshold = section.near_duplicate_threshold
    similar = similar_of_each([_question(record) for _, record in fixed], texts, threshold)
    keep = {
        index
        for index, ((kind, _), (twins, _)) in enumerate(zip(pool, similar, strict=True))
        if any((kind, fixed[twin][0]) not in _MAY_MEET for twin in twins)
    }
    if pretraining and "prompts" in kinds:
        # Questions of the other kinds go where prompts like them go.
        prompts = [index for index, (kind, _) in enumerate(pool) if kind == "prompts"]
        asked = [texts[index] for index in prompts]
        known = quoted(read_jsonl(pretraining, TextRecord), asked, threshold)
        keep |= {prompts[index] for index in known}
    owners = [kind for kind, _ in pool]
    split = held_out_split(texts, section.held_out, threshold, seed, keep, owners)
    parts: list[Files] = [
        {kind: [pool[index][1] for index in chosen if pool[index][0] == kind] for kind in kinds}
        for chosen in (split.train, split.held_out)
    ]
    too_like = Counter(owners[index] for index in split.too_like)
    for kind in kinds:
        if too_like[kind] == len(train[kind]) > 0:
            raise ValueError(
                f"{getattr(section, kind)}: all {len(train[kind])} records lie in groups of "
                f"near-duplicates too large to hold out {section.held_out:.0%}; name held-out ones "
                f"of your own in data.{kind}_eval"
            )
        if not parts[0][kind] or not parts[1][kind]:
            raise ValueError(
                f"{getattr(section, kind)}: {len(train[kind])} records are too few to hold out "
                f"{section.held_out:.0%}; add data, raise data.held_out or name data.{kind}_eval"
            )
    if len(split.too_like) > _TOO_LIKE * len(texts):
        logger.warning(
            "%d of %d questions (%.0f%%) lie in groups of near-duplicates too large to hold out, "
            "and nothing like them is tested on: name held-out files of your own in %s",
            len(split.too_like),
            len(texts),
            100 * len(split.too_like) / len(texts),
            " and ".join(f"data.{kind}_eval" for kind in kinds),
        )
    return train | parts[0], parts[1]


def _questions(files: Files) -> dict[str, list[str]]:
    return {kind: [_question(record) for record in records] for kind, records in files.items()}


def _question(record: AnyRecord) -> str:
    """What the user asked, all turns: the text that must not leak."""
    messages = record.prompt.messages if isinstance(record, RankingRecord) else record.messages
    return "\n".join(message.content for message in messages if message.role == "user")
