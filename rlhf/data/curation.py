"""Acceptance of crowd work by batches, after an authoritative annotator's check of a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from rlhf.config.schema import CurationSection
from rlhf.data.records import SFTRecord
from rlhf.ops.intervals import wilson

Auditor = Callable[[SFTRecord], bool]


@dataclass(frozen=True)
class Audit:
    """The check of a batch or a whole group; low and high bound the rate of acceptable work."""

    records: int
    audited: int
    acceptable: int
    low: float
    high: float


@dataclass(frozen=True)
class BatchReport:
    """One batch: accepted or sent back, how many records were dropped and why."""

    annotator: str
    batch: str
    audit: Audit
    accepted: bool
    dropped: int
    reason: str


@dataclass(frozen=True)
class CurationReport:
    """Batches in order of first appearance, and the audits of each annotator group together."""

    batches: tuple[BatchReport, ...]
    groups: dict[str, Audit]


@dataclass(frozen=True)
class CurationResult:
    """The records that stay, in their order, and what was dropped and why."""

    kept: list[SFTRecord]
    report: CurationReport


def curate(
    records: Iterable[SFTRecord], auditor: Auditor, settings: CurationSection, seed: int
) -> CurationResult:
    """Accepts a batch when the lower Wilson bound of its acceptance rate reaches the threshold.

    The bound is that of the two-sided interval at `settings.confidence`. A rejected batch goes back
    whole; of an accepted one only the audited records that were not acceptable are dropped.

    Args:
        records: demonstrations, each with its annotator group and batch.
        auditor: the authoritative verdict: True when the record is acceptable.
        seed: chooses the audited sample, independently for each batch.

    Raises:
        ValueError: a record without annotator or batch.
    """
    records = list(records)
    batches: dict[tuple[str, str], list[SFTRecord]] = {}
    for record in records:
        if record.annotator is None or record.batch is None:
            raise ValueError(
                f"record {record.id!r} has no annotator or no batch: curation works on batches; "
                f"give it both, or set sft.curation to null"
            )
        batches.setdefault((record.annotator, record.batch), []).append(record)
    reports, dropped = [], set[str]()
    for (annotator, batch), members in batches.items():
        sample = Random(f"{seed}/{annotator}/{batch}").sample(
            members, min(settings.sample, len(members))
        )
        failed = {record.id for record in sample if not auditor(record)}
        audit = _audit(len(members), len(sample), len(sample) - len(failed), settings.confidence)
        report = _judge(annotator, batch, audit, settings.threshold)
        dropped |= failed if report.accepted else {record.id for record in members}
        reports.append(report)
    kept = [record for record in records if record.id not in dropped]
    return CurationResult(kept, CurationReport(tuple(reports), _groups(reports, settings)))


def _judge(annotator: str, batch: str, audit: Audit, threshold: float) -> BatchReport:
    accepted = audit.low >= threshold
    found = (
        f"{audit.acceptable} of {audit.audited} audited records acceptable, bound {audit.low:.2f}"
    )
    if not accepted:
        dropped, reason = audit.records, f"sent back: {found} is below {threshold}"
    else:
        dropped = audit.audited - audit.acceptable
        reason = f"accepted: {found}" + ("; the others dropped" if dropped else "")
    return BatchReport(annotator, batch, audit, accepted, dropped, reason)


def _groups(reports: Iterable[BatchReport], settings: CurationSection) -> dict[str, Audit]:
    audits: dict[str, list[Audit]] = {}
    for report in reports:
        audits.setdefault(report.annotator, []).append(report.audit)
    return {
        annotator: _audit(
            sum(audit.records for audit in own),
            sum(audit.audited for audit in own),
            sum(audit.acceptable for audit in own),
            settings.confidence,
        )
        for annotator, own in audits.items()
    }


def _audit(records: int, audited: int, acceptable: int, confidence: float) -> Audit:
    low, high = wilson(acceptable, audited, confidence)
    return Audit(records, audited, acceptable, low, high)
