from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf.cli import app
from rlhf.config.schema import CurationSection
from rlhf.data.curation import Verdict
from rlhf.data.curation_files import curate_files
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import Message, SFTRecord

SETTINGS = CurationSection(sample=10, threshold=0.6)
MESSAGES = (Message(role="user", content="Q"), Message(role="assistant", content="A"))


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    """Two groups of 30; of the bad one nothing is acceptable."""
    write_jsonl(
        tmp_path / "sft.jsonl",
        (
            SFTRecord(
                id=f"{group}{n}",
                messages=MESSAGES,
                source="crowd",
                annotator=group,
                batch="1",
                label="harmless" if n % 2 else "helpful",
                metadata={"origin": "form"},
            )
            for group in ("good", "bad")
            for n in range(30)
        ),
    )
    return tmp_path / "sft.jsonl"


def judge(waiting: list[SFTRecord], path: Path) -> Path:
    """Verdicts: the good group's labels are right, the bad group's always said to be harmless."""
    write_jsonl(
        path,
        (
            Verdict(
                id=record.id,
                acceptable=record.annotator == "good",
                label=record.label if record.annotator == "good" else "harmless",
            )
            for record in waiting
        ),
    )
    return path


def ids(path: Path) -> list[str]:
    return [record.id for record in read_jsonl(path, SFTRecord)]


def test_first_the_sample_then_the_outcome(tmp_path: Path, sft: Path) -> None:
    out = tmp_path / "out"
    waiting = curate_files(sft, None, out, SETTINGS, seed=1, tell=print)
    assert isinstance(waiting, list) and len(waiting) == 20
    assert ids(out / "sample.jsonl") == [record.id for record in waiting]
    part = judge(waiting[:15], tmp_path / "part.jsonl")
    assert curate_files(sft, part, out, SETTINGS, seed=1, tell=print) == waiting[15:]

    audits = judge(waiting, tmp_path / "audits.jsonl")
    curate_files(sft, audits, out, SETTINGS, seed=1, tell=print)
    assert not (out / "sample.jsonl").exists()
    assert ids(out / "kept.jsonl") == [f"good{n}" for n in range(30)]
    dropped = list(read_jsonl(out / "dropped.jsonl", SFTRecord))
    assert len(dropped) == 30 and dropped[0].metadata["origin"] == "form"
    assert dropped[0].metadata["dropped"].startswith("sent back: 0 of 10")
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert (report["kept"], report["dropped"], report["verdicts_outside_the_sample"]) == (30, 30, 0)
    good, bad = report["label_agreement"]["good"], report["label_agreement"]["bad"]
    assert good["compared"] == 10 and good["cohen_kappa"] == good["krippendorff_alpha"] == 1
    assert bad["cohen_kappa"] == 0 and bad["krippendorff_alpha"] < 0

    curate_files(sft, part, out, SETTINGS, seed=1, tell=print)
    assert [path.name for path in out.iterdir()] == ["sample.jsonl"]


def test_verdicts_that_the_sample_does_not_ask_for_are_counted(tmp_path: Path, sft: Path) -> None:
    everything = judge(list(read_jsonl(sft, SFTRecord)), tmp_path / "audits.jsonl")
    curate_files(sft, everything, tmp_path / "out", SETTINGS, seed=1, tell=print)
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["verdicts_outside_the_sample"] == 40
    assert [batch["refused_outside"] for batch in report["batches"]] == [0, 20]
    assert report["label_agreement"]["good"]["compared"] == 10


def test_what_is_refused_outside_the_sample_is_dropped(tmp_path: Path, sft: Path) -> None:
    waiting = curate_files(sft, None, tmp_path / "out", SETTINGS, seed=1, tell=print)
    assert isinstance(waiting, list)
    sampled = {record.id for record in waiting}
    known = next(one for one in read_jsonl(sft, SFTRecord) if one.id not in sampled)
    audits = judge(waiting, tmp_path / "audits.jsonl")
    write_jsonl(audits, [*read_jsonl(audits, Verdict), Verdict(id=known.id, acceptable=False)])
    curate_files(sft, audits, tmp_path / "out", SETTINGS, seed=1, tell=print)
    assert ids(tmp_path / "out" / "kept.jsonl") == [
        f"good{n}" for n in range(30) if f"good{n}" != known.id
    ]
    dropped = {one.id: one for one in read_jsonl(tmp_path / "out" / "dropped.jsonl", SFTRecord)}
    assert dropped[known.id].metadata["dropped"] == (
        "not acceptable to the auditor, outside the sample"
    )


def test_its_own_input_is_not_overwritten(tmp_path: Path, sft: Path) -> None:
    again = sft.rename(tmp_path / "dropped.jsonl")
    with pytest.raises(ValueError, match=r"dropped\.jsonl: .* choose another --out"):
        curate_files(again, None, tmp_path, SETTINGS, seed=1, tell=print)
    assert again.is_file()


def test_demonstrations_without_a_batch_are_named(tmp_path: Path, sft: Path) -> None:
    first, *others = read_jsonl(sft, SFTRecord)
    write_jsonl(sft, [first.model_copy(update={"batch": None}), *others])
    with pytest.raises(ValueError, match=r"sft\.jsonl: record 'good0' .* no batch: ") as told:
        curate_files(sft, None, tmp_path / "out", SETTINGS, seed=1, tell=print)
    assert "sft.curation" not in str(told.value)


def test_the_command(tmp_path: Path, sft: Path) -> None:
    run = CliRunner(env={"COLUMNS": "160"})
    arguments = ["data", "curate", str(sft), "--out", str(tmp_path / "out"), "--sample", "10"]
    first = run.invoke(app, arguments)
    assert first.exit_code == 0 and "20 demonstrations wait for a verdict" in first.output
    audits = judge(
        list(read_jsonl(tmp_path / "out" / "sample.jsonl", SFTRecord)), tmp_path / "audits.jsonl"
    )
    second = run.invoke(app, [*arguments, "--audits", str(audits)])
    assert second.exit_code == 0
    assert "0 of 10" in second.output and "10 of 10" in second.output and "1.00" in second.output


def test_a_file_in_the_place_of_the_folder(sft: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match="cannot be a folder"):
        curate_files(sft, None, tmp_path / "taken", SETTINGS, seed=1, tell=print)
