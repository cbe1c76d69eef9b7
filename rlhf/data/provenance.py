"""Which models responses come from: the reward model learns from one family (Baichuan 2, 4.2)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf.data.records import Provenance, RankingRecord, pair_grades
from rlhf.models.checkpoint import checkpoint_hash
from rlhf.models.registry import spec_of

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ProvenanceReport:
    """What the family filter saw and did. A source is "family/model".

    responses: by source, before any was dropped. off_family: those outside the allowed families.
    proven, declared: responses of allowed families whose checkpoint hash is known, and the others.
    responses_dropped, records_dropped: a record goes when fewer than two of its responses remain.
    pairs: of what is kept, by the "size stage" of the chosen and of the rejected response.
    """

    mode: str
    responses: dict[str, int]
    off_family: dict[str, int]
    proven: int
    declared: int
    responses_dropped: int
    records_dropped: int
    pairs: dict[str, dict[str, int]]


def family_filter(
    rankings: Iterable[RankingRecord],
    mode: Literal["refuse", "drop", "allow"],
    allowed: Collection[str],
    known_hashes: Collection[str] = (),
) -> tuple[list[RankingRecord], ProvenanceReport]:
    """Keeps responses of the allowed families.

    Args:
        mode: `refuse` raises when there is any other, `drop` takes it out of its ranking, `allow`
            keeps it (for the ablation; the report says so).
        allowed: families, such as {"baichuan"}.
        known_hashes: checkpoint hashes of the run's own models and of listed official ones.

    Raises:
        ValueError: mode `refuse` and a response from another family, or mode `drop` and no ranking
            left; counts by source.
    """
    records = list(rankings)
    origins = [response.provenance for record in records for response in record.responses]
    inside = [origin for origin in origins if origin.family in allowed]
    off_family = Counter(_source(origin) for origin in origins if origin.family not in allowed)
    kept = records
    if off_family and mode != "allow":
        narrowed = [_only(record, allowed) for record in records]
        kept = [record for record in narrowed if record is not None]
        if mode == "refuse" or not kept:
            counts = ", ".join(f"{count} from {name}" for name, count in off_family.most_common())
            mend = "to drop or allow" if kept else "to allow, for drop leaves no ranking"
            raise ValueError(
                f"responses from outside the families {sorted(allowed)}: {counts}; remove them, or "
                f"set rm.data.off_family {mend}"
            )
    proven = sum((origin.checkpoint_hash or "").lower() in known_hashes for origin in inside)
    report = ProvenanceReport(
        mode=mode,
        responses=dict(Counter(map(_source, origins))),
        off_family=dict(off_family),
        proven=proven,
        declared=len(inside) - proven,
        responses_dropped=off_family.total() if mode == "drop" else 0,
        records_dropped=len(records) - len(kept),
        pairs=pairs_by_origin(kept),
    )
    return kept, report


def listed_hashes(entries: Iterable[str], families: Collection[str]) -> set[str]:
    """The checkpoint hashes that entries of `rm.data.known_checkpoints` stand for.

    Args:
        entries: hashes (64 hexadecimal digits), or checkpoint folders, whose weights are read.
        families: those that a folder may be of; of a hash nobody can tell.

    Raises:
        ValueError: an entry is neither, or a folder is of another family.
    """
    hashes = set()
    for entry in entries:
        if _SHA256.fullmatch(entry):
            hashes.add(entry.lower())
        elif Path(entry).is_dir():
            if (family := spec_of(entry).family) not in families:
                raise ValueError(
                    f"rm.data.known_checkpoints: {entry} is of the family {family!r}, which proves "
                    f"nothing about {sorted(families)}; take it out"
                )
            hashes.add(checkpoint_hash(entry))
        else:
            raise ValueError(
                f"rm.data.known_checkpoints: {entry!r} is neither a folder nor a sha256 in 64 "
                f"hexadecimal digits"
            )
    return hashes


def pairs_by_origin(rankings: Iterable[RankingRecord]) -> dict[str, dict[str, int]]:
    """Pairs by the "size stage" of the chosen response, then of the rejected one."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in rankings:
        origins = [f"{r.provenance.size} {r.provenance.stage}" for r in record.responses]
        for pair in pair_grades(record.ranks, record.grades):
            counts[origins[pair.chosen]][origins[pair.rejected]] += 1
    return {chosen: dict(counts[chosen]) for chosen in sorted(counts)}


def keep_responses(record: RankingRecord, kept: Sequence[int]) -> RankingRecord:
    """The kept responses alone, at least one, ranked and graded as in the whole ranking.

    Ranks do not close up: a pair across one that is gone stays further apart, its grade the sum of
    the gaps between, derived. What has such a hole is to reckon with, and no line of a file.
    """
    return record.model_copy(
        update={
            "responses": tuple(record.responses[i] for i in kept),
            "ranks": tuple(record.ranks[i] for i in kept),
        }
    )


def _only(record: RankingRecord, allowed: Collection[str]) -> RankingRecord | None:
    kept = [i for i, r in enumerate(record.responses) if r.provenance.family in allowed]
    return keep_responses(record, kept) if len(kept) >= 2 else None


def _source(origin: Provenance) -> str:
    return f"{origin.family}/{origin.model}"
