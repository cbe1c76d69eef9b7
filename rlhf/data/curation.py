"""Acceptance of crowd work by batches, after an authoritative annotator's check of a sample."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from rlhf.config.schema import CurationSection
from rlhf.data.jsonl import Record, read_jsonl
from rlhf.data.records import Label, SFTRecord
from rlhf.ops.intervals import wilson

Auditor = Callable[[SFTRecord], bool]
BatchKey = tuple[str, str]
"""Annotator group and batch."""


class Verdict(Record):
    """The authoritative annotator on the demonstration of that id, and the label they give it."""

    acceptable: bool
    label: Label | None = None


@dataclass(frozen=True)
class Audit:
    """The check of a batch or a whole group; low and high bound the rate of acceptable work.

    A group's rate is that of all its records: its batches count by their size, so that it need not
    be acceptable / audited.
    """

    records: int
    audited: int
    acceptable: int
    low: float
    high: float


@dataclass(frozen=True)
class BatchReport:
    """One batch: accepted or sent back, how many records were dropped and why.

    refused_outside: records outside the sample that a verdict is against; dropped as well.
    """

    annotator: str
    batch: str
    audit: Audit
    accepted: bool
    dropped: int
    refused_outside: int
    reason: str


@dataclass(frozen=True)
class CurationReport:
    """Batches in order of first appearance, and the audits of each annotator group together."""

    batches: tuple[BatchReport, ...]
    groups: dict[str, Audit]


@dataclass(frozen=True)
class CurationResult:
    """The records that stay, in their order, and what was dropped and why.

    dropped: from the id of a record to the reason.
    """

    kept: list[SFTRecord]
    dropped: dict[str, str]
    report: CurationReport


def audit_samples(
    records: Iterable[SFTRecord], size: int, seed: int
) -> dict[BatchKey, list[SFTRecord]]:
    """What the authoritative annotator judges: `size` records of each batch, or all where fewer.

    The draw from a batch does not depend on the other batches.

    Raises:
        ValueError: a record without annotator or batch.
    """
    return {
        (annotator, batch): Random(f"{seed}/{annotator}/{batch}").sample(
            members, min(size, len(members))
        )
        for (annotator, batch), members in _batches(records).items()
    }


def curate(
    records: Iterable[SFTRecord],
    auditor: Auditor,
    settings: CurationSection,
    seed: int,
    refused: Collection[str] = (),
) -> CurationResult:
    """Accepts a batch when the lower Wilson bound of its acceptance rate reaches the threshold.

    The bound is that of the two-sided interval at `settings.confidence`, corrected for the share
    of the batch that was audited. A rejected batch goes back whole; of an accepted one only the
    records are dropped that were not acceptable.

    Args:
        records: demonstrations, each with its annotator group and batch.
        auditor: the authoritative verdict: True when the record is acceptable.
        seed: chooses the audited sample, independently for each batch.
        refused: ids that a verdict is against, sampled or not: nobody drew those outside the sample
            by chance, so that they say nothing of the batch's rate.

    Raises:
        ValueError: a record without annotator or batch.
    """
    records = list(records)
    samples = audit_samples(records, settings.sample, seed)
    reports, dropped = [], dict[str, str]()
    for (annotator, batch), members in _batches(records).items():
        sample = samples[annotator, batch]
        failed = [record.id for record in sample if not auditor(record)]
        audit = _audit(len(members), len(sample), len(sample) - len(failed), settings.confidence)
        sampled = {record.id for record in sample}
        besides = [one.id for one in members if one.id in refused and one.id not in sampled]
        report = _judge(annotator, batch, audit, len(besides), settings.threshold)
        if report.accepted:
            dropped |= dict.fromkeys(failed, "not acceptable to the auditor")
            dropped |= dict.fromkeys(besides, "not acceptable to the auditor, outside the sample")
        else:
            dropped |= {record.id: report.reason for record in members}
        reports.append(report)
    kept = [record for record in records if record.id not in dropped]
    return CurationResult(kept, dropped, CurationReport(tuple(reports), _groups(reports, settings)))


def file_auditor(path: str | None) -> tuple[Auditor, set[str]]:
    """The verdicts of a file, and the ids of all demonstrations that one is against.

    Raises:
        ValueError: no file is named; the auditor itself, for a demonstration without a verdict.
    """
    if path is None:
        raise ValueError(
            "sft.curation is on, but nobody audits: name the authoritative verdicts in data.audits "
            '(JSONL of {"id", "acceptable"}), or set sft.curation to null'
        )
    verdicts = {verdict.id: verdict.acceptable for verdict in read_jsonl(path, Verdict)}

    def audit(record: SFTRecord) -> bool:
        if record.id not in verdicts:
            raise ValueError(
                f"{path}: no verdict on {record.id}, which was sampled; add a line for it"
            )
        return verdicts[record.id]

    return audit, {name for name, acceptable in verdicts.items() if not acceptable}


def _batches(records: Iterable[SFTRecord]) -> dict[BatchKey, list[SFTRecord]]:
    batches: dict[BatchKey, list[SFTRecord]] = {}
    for record in records:
        if record.annotator is None or record.batch is None:
            raise ValueError(
                f"record {record.id!r} has no annotator or no batch: curation works on batches; "
                "give every record both, or do without curation"
            )
        batches.setdefault((record.annotator, record.batch), []).append(record)
    return batches


def _judge(annotator: str, batch: str, audit: Audit, besides: int, threshold: float) -> BatchReport:
    accepted = audit.low >= threshold
    found = (
        f"{audit.acceptable} of {audit.audited} audited records acceptable, bound {audit.low:.2f}"
    )
    if not accepted:
        dropped, reason = audit.records, f"sent back: {found} is below {threshold}"
    else:
        failed = audit.audited - audit.acceptable
        dropped = failed + besides
        reason = f"accepted: {found}" + ("; the others dropped" if failed else "")
        reason += f"; {besides} refused outside the sample dropped" if besides else ""
    return BatchReport(annotator, batch, audit, accepted, dropped, besides, reason)


def _groups(reports: Iterable[BatchReport], settings: CurationSection) -> dict[str, Audit]:
    audits: dict[str, list[Audit]] = {}
    for report in reports:
        audits.setdefault(report.annotator, []).append(report.audit)
    return {annotator: _together(own, settings.confidence) for annotator, own in audits.items()}


def _together(audits: Sequence[Audit], confidence: float) -> Audit:
    """The batches of a group, each a stratum that counts by its size, however many were audited.

    The rate P is sum N_b P_b / N, of the variance sum (N_b / N)^2 P_b (1 - P_b) / n_b
    (N_b - n_b) / (N_b - 1) (Cochran 1977, Sampling Techniques, section 5.10): as of P (1 - P) over
    it independent trials, which stand in Wilson's formula. Where it is larger with P for every P_b
    it is taken so: a batch of whose sample all is acceptable need not be without a fault.
    """
    records = sum(audit.records for audit in audits)
    audited = sum(audit.audited for audit in audits)
    acceptable = sum(audit.acceptable for audit in audits)
    rate = sum(each.records * each.acceptable / each.audited for each in audits) / records
    shares = [(_open(each) * (each.records / records) ** 2, each) for each in audits]
    variance = sum(share * _spread(each.acceptable / each.audited) for share, each in shares)
    per_trial = sum(share for share, _ in shares)
    if rate not in (0, 1):
        per_trial = max(per_trial, variance / _spread(rate))
    if not per_trial:  # all audited
        return Audit(records, audited, acceptable, rate, rate)
    low, high = wilson(rate / per_trial, 1 / per_trial, confidence)
    return Audit(records, audited, acceptable, low, high)


def _open(audit: Audit) -> float:
    """What a batch's sample leaves open: the variance of its rate P, over P (1 - P)."""
    unseen = audit.records - audit.audited
    return unseen / (audit.records - 1) / audit.audited if unseen else 0.0


def _spread(rate: float) -> float:
    return rate * (1 - rate)


def _audit(records: int, audited: int, acceptable: int, confidence: float) -> Audit:
    low, high = wilson(acceptable, audited, confidence, population=records)
    return Audit(records, audited, acceptable, low, high)
