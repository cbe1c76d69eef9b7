from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.jsonl import write_jsonl
from rlhf.evaluation.report import write
from rlhf.evaluation.run_files import load, read_metrics
from rlhf.runtime.metrics import MetricsLog
from tests.evaluation.conftest import make_verdicts
from tests.evaluation.pages import read_page, untranslated


class Checker(HTMLParser):
    """Collects what a page would load, and that its tags nest."""

    VOID = {"meta", "br", "hr", "img", "input", "link"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def read(run_dir: Path) -> tuple[dict[str, Any], str]:
    report = json.loads((run_dir / "report" / "report.json").read_text(encoding="utf-8"))
    return report, read_page(run_dir / "report" / "index.html")


def test_a_complete_run(run_dir: Path) -> None:
    returned = write(run_dir)
    report, page = read(run_dir)
    assert report == json.loads(json.dumps(returned))
    assert report["missing"] == []
    assert {"eval_loss_before", "eval_loss_after", "tokens"} <= set(report["sft"])
    assert report["sft"]["eval_loss_after"] == 0.72
    assert {"pairs", "accuracy", "by_grade", "by_margin", "ece", "by_category"} <= set(report["rm"])
    assert {"low", "high", "pairs", "accuracy", "ci_low", "ci_high", "expected"} <= set(
        report["rm"]["by_margin"][0]
    )
    pairs = (run_dir / "rm" / "pairs.jsonl").read_text(encoding="utf-8").count("\n")
    assert report["rm"]["pairs"] == pairs == sum(row["pairs"] for row in report["rm"]["by_grade"])
    ppo = report["ppo"]
    assert ppo["iterations"] == 120 and ppo["judge"]["name"] == "rubric"
    assert ppo["judge"]["win"] + ppo["judge"]["tie"] + ppo["judge"]["lose"] == 220
    assert ppo["judge_extra_sft"]["prompts"] == 220
    assert [entry["round"] for entry in report["rounds"]] == [1, 2]
    assert report["capabilities"]["tax"] == pytest.approx(6 / 40)
    assert "+15.0 <small>points" in page and "−15.0 (−26.6 to −3.4)" in page
    assert report["rounds"][1]["rm"]["accuracy"] == report["rm"]["accuracy"]
    assert report["run"]["core_minutes"] == pytest.approx(52.5 * 45 / 60)
    assert report["run"]["peak_memory_gib"] == pytest.approx(1.6)
    assert sum(row["train"] for row in report["data"]["responses"]) == 2 * 120 * 4
    assert "Simulated annotators" in page and "not finished" not in page
    assert untranslated(page, report, [*report["run"]["versions"]]) == []

    loads = parsed(page).loads
    assert all(load.startswith("#") for load in loads), "the page must load nothing"
    assert len(set(parsed(page).ids)) == len(parsed(page).ids)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "&lt;b&gt;" in page and "<b>" not in page, "answers must be escaped"
    assert page.count("<article>") == 5 and 'class="verdict' in page

    names = {path.name for path in (run_dir / "report").iterdir()}
    assert {
        "rm_by_grade.png",
        "rm_by_margin.png",
        "ppo_kl.png",
        "judge.png",
        "sft_loss.png",
    } <= names
    with (run_dir / "report" / "rm_by_grade.csv").open(encoding="utf-8") as stream:
        grades = list(csv.DictReader(stream))
    assert [int(row["pairs"]) for row in grades] == [
        row["pairs"] for row in report["rm"]["by_grade"]
    ]


def test_the_same_files_give_the_same_report(run_dir: Path) -> None:
    for part in ("ppo", "sft", "rounds"):  # fewer plots: the time is theirs
        shutil.rmtree(run_dir / part)
    write(run_dir)
    first = {path.name: path.read_bytes() for path in (run_dir / "report").iterdir()}
    (run_dir / "report" / "left_over.png").write_bytes(b"")
    write(run_dir)
    second = {path.name: path.read_bytes() for path in (run_dir / "report").iterdir()}
    assert first == second


def test_missing_parts_are_said_to_be_missing(run_dir: Path) -> None:
    for part in "ppo rm sft/main rounds evaluate collect data capabilities".split():
        shutil.rmtree(run_dir / part)
    report = write(run_dir)
    _, page = read(run_dir)
    assert report["rm"] is None and report["ppo"] is None and report["sft"] is None
    assert [sentence.split(":")[0] for sentence in report["missing"]] == [
        "sft/main/summary.json",
        "collect/rankings.jsonl",
        "rm/pairs.jsonl",
        "ppo/summary.json",
        "ppo/judge.jsonl",
        "evaluate/judge_sft_extra.jsonl",
        "capabilities",
    ]
    assert "The reward model has not been evaluated in this run directory." in page
    assert "simulated" not in page.lower()
    assert untranslated(page, report["run"], [*report["run"]["versions"]]) == []
    parsed(page)


def test_an_unfinished_ppo_shows_its_curves_and_no_result(run_dir: Path) -> None:
    for name in ("summary.json", "judge.jsonl"):
        (run_dir / "ppo" / name).unlink()
    for part in ("rm", "sft", "rounds"):
        shutil.rmtree(run_dir / part)
    assert write(run_dir)["ppo"] is None
    _, page = read(run_dir)
    assert "PPO has not finished in this run directory." in page
    assert (run_dir / "report" / "ppo_kl.png").is_file()


def test_only_the_config_is_needed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: empty\nseed: 1\n", encoding="utf-8")
    report = write(tmp_path)
    assert report["run"]["stages"] == [] and report["run"]["peak_memory_gib"] is None
    assert "No manifest.json in this run directory" in read(tmp_path)[1]


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no config.yaml; name a run directory"):
        write(tmp_path)


def test_a_damaged_file_is_named(run_dir: Path) -> None:
    with (run_dir / "rm" / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 61, "lo')
    with pytest.raises(ValueError, match=r"rm/metrics\.jsonl:\d+: not JSON"):
        write(run_dir)


def test_curves_leave_out_what_was_not_finite(run_dir: Path, tmp_path: Path) -> None:
    """A loss and a score that overflowed in one step, as the log writes them."""
    with MetricsLog(tmp_path / "log") as metrics:
        for step, loss in enumerate((1.0, nan, 4.0)):
            metrics.log(step, {"loss": loss, "kl": -inf if step else 0.5})
    assert '"loss": null' in (tmp_path / "log" / "metrics.jsonl").read_text("utf-8")
    rows = read_metrics(tmp_path / "log")
    assert rows == [{"step": 0, "loss": 1.0, "kl": 0.5}, {"step": 1}, {"step": 2, "loss": 4.0}]
    lost = {"sft/main": "loss", "rm": "eval_loss", "ppo": "score"}
    for stage, key in lost.items():
        with (run_dir / stage / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": 1000, key: None, "loss": None}) + "\n")
    write(run_dir)
    for name in ("sft_loss", "rm_loss", "ppo_score"):
        assert (run_dir / "report" / f"{name}.png").is_file()


def test_numbers_that_are_not_finite_become_null(run_dir: Path) -> None:
    for part in ("ppo", "rm", "rounds"):
        shutil.rmtree(run_dir / part)
    summary = '{"eval_loss_before": NaN, "eval_loss_after": 0.5, "tokens": 3}'
    (run_dir / "sft" / "main" / "summary.json").write_text(summary, encoding="utf-8")
    assert write(run_dir)["sft"]["eval_loss_before"] is None


def test_ppo_against_dpo_is_not_dpo_against_sft(run_dir: Path) -> None:
    for part in ("rm", "sft", "rounds", "data", "capabilities"):
        shutil.rmtree(run_dir / part)
    (run_dir / "ppo" / "metrics.jsonl").unlink()
    for name, count in (("judge_dpo", 20), ("judge_ppo_dpo", 30)):
        verdicts = make_verdicts(count, 0.5, judge="rubric", simulated=True)
        write_jsonl(run_dir / "evaluate" / f"{name}.jsonl", verdicts)
    write(run_dir)
    report, _ = read(run_dir)
    assert report["dpo"]["judge"]["prompts"] == 20
    assert report["ppo"]["judge_dpo"]["prompts"] == 30
    assert report["ppo"]["judge"]["prompts"] == 220  # against SFT


def test_where_the_training_pairs_come_from(run_dir: Path) -> None:
    origins = {
        "mode": "allow",
        "responses": {"baichuan/a": 8, "other/b": 3},
        "off_family": {"other/b": 3},
        "proven": 6,
        "declared": 2,
        "responses_dropped": 0,
        "records_dropped": 0,
        "pairs": {"7b sft": {"13b ppo": 5}, "13b ppo": {"13b ppo": 1}},
    }
    provenance = {"train": origins, "held out": origins | {"off_family": {}, "pairs": {}}}
    (run_dir / "rm" / "provenance.json").write_text(json.dumps(provenance))
    assert write(run_dir)["data"]["provenance"] == provenance
    _, page = read(run_dir)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Responses of other families." in text and "3 from other/b" in text
    assert "for training 6 2 3 0 held out 6 2 0 0" in text
    assert "chosen over 13b ppo over 7b sft 13b ppo 1 0 7b sft 5 0" in text
    with (run_dir / "report" / "pairs_by_origin.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"split": "train", "chosen": "7b sft", "rejected": "13b ppo", "pairs": "5"},
            {"split": "train", "chosen": "13b ppo", "rejected": "13b ppo", "pairs": "1"},
        ]
    for row in provenance.values():
        row["mode"] = "drop"
    (run_dir / "rm" / "provenance.json").write_text(json.dumps(provenance))
    write(run_dir)
    assert "Responses of other families." not in read(run_dir)[1]


def test_a_folder_beside_the_rounds_is_none(run_dir: Path) -> None:
    for name in ("1-old", "old", "²"):
        (run_dir / "rounds" / name).mkdir()
    assert len(load(run_dir).rounds) == 2
