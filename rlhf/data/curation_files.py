"""Curation from file to file, in the two turns that an audit by people takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config.schema import CurationSection
from rlhf.data.agreement import Agreement, agreement
from rlhf.data.curation import CurationReport, CurationResult, Verdict, audit_samples, curate
from rlhf.data.jsonl import Rejection, read_jsonl, write_jsonl
from rlhf.data.records import SFTRecord
from rlhf.data.validate import good_records
from rlhf.runtime.files import make_folder, write_text

if TYPE_CHECKING:
    from rich.table import Table

SAMPLE, KEPT, DROPPED, REPORT = "sample.jsonl", "kept.jsonl", "dropped.jsonl", "report.json"


def curate_files(
    sft: Path,
    audits: Path | None,
    out: Path,
    settings: CurationSection,
    seed: int,
    tell: Callable[[Rejection], object],
) -> tuple[CurationReport, dict[str, Agreement]] | list[SFTRecord]:
    """Write what is still to be audited, or, once every sampled record has a verdict, the outcome.

    The first turn writes sample.jsonl. The second writes kept.jsonl, dropped.jsonl (the records as
    they came, with the reason under `dropped` in their metadata) and report.json.

    Args:
        tell: called with every line of `sft` that is no demonstration; the rest is still curated.

    Returns:
        The records that wait for a verdict, or the report and the label agreement of each group.

    Raises:
        ValueError: no demonstration, a bad verdict, a record without annotator or batch, an input
            in the place of an output.
    """
    files = [out / name for name in (SAMPLE, KEPT, DROPPED, REPORT)]
    for given in (sft, audits):
        if given is not None and given.resolve() in [file.resolve() for file in files]:
            raise ValueError(f"{given}: this file would be overwritten; choose another --out")
    records = list(good_records(sft, SFTRecord, tell))
    verdicts = {verdict.id: verdict for verdict in read_jsonl(audits, Verdict)} if audits else {}
    try:
        samples = audit_samples(records, settings.sample, seed)
    except ValueError as error:
        raise ValueError(f"{sft}: {error}") from None
    sampled = [record for sample in samples.values() for record in sample]
    waiting = [record for record in sampled if record.id not in verdicts]
    # Files of the other turn would pass for results of this one.
    make_folder(out)
    for file in files:
        file.unlink(missing_ok=True)
    if waiting:
        write_jsonl(out / SAMPLE, waiting)
        return waiting
    refused = {verdict.id for verdict in verdicts.values() if not verdict.acceptable}
    result = curate(records, lambda record: verdicts[record.id].acceptable, settings, seed, refused)
    agreements = label_agreement(sampled, verdicts)
    _write(result, agreements, records, out, len(verdicts.keys() - {one.id for one in sampled}))
    return result.report, agreements


def label_agreement(
    records: Iterable[SFTRecord], verdicts: Mapping[str, Verdict]
) -> dict[str, Agreement]:
    """Agreement of each annotator group with the auditor on helpful and harmless."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        assert record.annotator is not None, "batches have annotators"
        own = pairs.setdefault(record.annotator, [])
        label = verdicts[record.id].label
        if record.label is not None and label is not None:
            own.append((record.label, label))
    return {annotator: agreement(own) for annotator, own in pairs.items()}


def table(report: CurationReport, agreements: Mapping[str, Agreement]) -> Table:
    """For the terminal: a row an annotator group (batches kept, records dropped, audited records
    acceptable, labels that agree with the auditor's); below it, why batches went back."""
    from rich.box import SIMPLE
    from rich.table import Column, Table

    numbers = ("kept", "dropped", "acceptable", "interval", "agreeing", "kappa", "alpha")
    columns = [Column(name, justify="right") for name in numbers]
    back = [each for each in report.batches if not each.accepted]
    caption = "\n".join(f"{each.annotator}, {each.batch}: {each.reason}" for each in back)
    first = Column("group", overflow="fold")
    shown = Table(first, *columns, box=SIMPLE, caption=caption, caption_justify="left")
    shown.pad_edge, shown.padding = False, (0, 1, 0, 0)
    for group, audit in report.groups.items():
        own = [batch for batch in report.batches if batch.annotator == group]
        labelled = agreements[group]
        coefficients = (labelled.cohen_kappa, labelled.krippendorff_alpha)
        agreeing = "-" if labelled.share is None else f"{labelled.share:.2f} of {labelled.compared}"
        shown.add_row(
            group,
            f"{sum(batch.accepted for batch in own)} of {len(own)}",
            f"{sum(batch.dropped for batch in own):,} of {audit.records:,}",
            f"{audit.acceptable} of {audit.audited}",
            f"{audit.low:.2f}-{audit.high:.2f}",
            agreeing,
            *("-" if value is None else f"{value:.2f}" for value in coefficients),
        )
    return shown


def _write(
    result: CurationResult,
    agreements: Mapping[str, Agreement],
    records: Iterable[SFTRecord],
    out: Path,
    unused: int,
) -> None:
    write_jsonl(out / KEPT, result.kept)
    write_jsonl(
        out / DROPPED,
        (
            one.model_copy(update={"metadata": one.metadata | {"dropped": result.dropped[one.id]}})
            for one in records
            if one.id in result.dropped
        ),
    )
    report = {
        "kept": len(result.kept),
        "dropped": len(result.dropped),
        **asdict(result.report),
        "label_agreement": {group: asdict(one) for group, one in agreements.items()},
        "verdicts_outside_the_sample": unused,
    }
    write_text(out / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
