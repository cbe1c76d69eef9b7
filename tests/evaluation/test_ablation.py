from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from rlhf.evaluation.ablation import Outcome, compare, figure, headings, lines, write

METRICS = {"accuracy": "rm.accuracy", "ECE": "rm.ece"}


def outcome(
    variant: str, seed: int, credits: dict[str, float], ece: float | None = 0.1, **rm: Any
) -> Outcome:
    """credits: by pair, whose prompt is the letter it begins with."""
    accuracy = sum(credits.values()) / len(credits)
    report = {"rm": {"accuracy": accuracy, "ci_low": 0.2, "ci_high": 0.9, "ece": ece, **rm}}
    return Outcome(
        variant, seed, report, {"rm.accuracy": {k: (k[0], v) for k, v in credits.items()}}
    )


def row(table: list[dict[str, Any]], variant: str, metric: str = "accuracy") -> dict[str, Any]:
    return next(row for row in table if (row["variant"], row["metric"]) == (variant, metric))


def test_over_seeds_level_and_paired_distance_have_students_interval():
    base = [outcome("base", seed, {"a1": 1.0, "a2": float(seed)}) for seed in (0, 1)]
    other = [outcome("other", seed, {"a1": 0.0, "a2": float(seed)}) for seed in (0, 1)]
    table = compare([*base, *other], "base", METRICS)
    # Accuracies 0.5 and 1: mean 0.75, standard error 0.25, t(1) = 12.706.
    level = row(table, "base")
    assert (level["value"], level["seeds"]) == (0.75, 2)
    assert level["ci_high"] == pytest.approx(0.75 + 12.706 * 0.25, abs=1e-3)
    # Each seed loses the same half: no spread, whatever the seeds' own levels are.
    found = row(table, "other")
    assert (found["difference"], found["difference_low"], found["difference_high"]) == (-0.5,) * 3
    assert level["difference"] is None


def test_with_one_seed_the_report_gives_the_level_and_the_pairs_give_the_distance():
    base = outcome("base", 0, {"a1": 1.0, "a2": 1.0, "b1": 0.0, "b2": 1.0})
    other = outcome("other", 0, {"a1": 0.0, "a2": 0.0, "b1": 1.0, "b2": 1.0}, ece=0.3)
    table = compare([base, other], "base", METRICS)
    found = row(table, "other")
    assert (found["value"], found["ci_low"], found["ci_high"]) == (0.5, 0.2, 0.9)
    # Gaps -1 -1 | 1 0, mean -0.25: residuals of the prompts sum to -1.5 and 1.5, so the variance is
    # 2 (1.5^2 + 1.5^2) / 16.
    assert found["difference"] == -0.25
    assert found["difference_high"] == pytest.approx(-0.25 + 12.7062047 * 0.75)
    ece = row(table, "other", "ECE")
    assert ece["difference"] == pytest.approx(0.2) and ece["difference_low"] is None


def test_other_pairs_have_no_paired_interval():
    table = compare(
        [outcome("base", 0, {"a": 1.0}), outcome("other", 0, {"b": 0.0})], "base", METRICS
    )
    assert (row(table, "other")["difference"], row(table, "other")["difference_low"]) == (
        -1.0,
        None,
    )


def test_what_a_report_gives_as_null_is_no_number():
    runs = [outcome("base", 0, {"a": 1.0}), outcome("other", 0, {"a": 1.0}, ece=None)]
    found = row(compare(runs, "base", METRICS), "other", "ECE")
    assert (found["value"], found["difference"]) == (None, None)


def test_a_path_that_leads_nowhere_names_what_is_there():
    report = {"rm": {"accuracy": 0.5, "kendall": {"tau": 0.1}}}
    assert figure(report, "rm.kendall.tau") == 0.1
    with pytest.raises(ValueError, match="no rm.acuracy; there are accuracy, kendall"):
        figure(report, "rm.acuracy")
    with pytest.raises(ValueError, match="rm.kendall is no number"):
        figure(report, "rm.kendall")


def test_one_line_a_variant_and_the_files(tmp_path):
    runs = [outcome("base", 0, {"a": 1.0, "b": 1.0}), outcome("other", 0, {"a": 1.0, "b": 0.0})]
    table = compare(runs, "base", METRICS)
    assert headings(table, "base") == ["variant", "accuracy", "less base", "ECE", "less base"]
    # Gaps 0 and -1: mean -0.5, half 12.7 sqrt(2 (0.25 + 0.25) / 4).
    assert lines(table)[1][:3] == [
        "other",
        "0.500 (0.200 to 0.900)",
        "\u22120.500 (\u22126.853 to +5.853)",
    ]
    write(tmp_path, table, "base", {"stage": "rm"})
    assert json.loads((tmp_path / "ablation.json").read_text("utf-8")) == {
        "stage": "rm",
        "table": table,
    }
    with (tmp_path / "ablation.csv").open(encoding="utf-8") as stream:
        assert [line["variant"] for line in csv.DictReader(stream)] == ["base"] * 2 + ["other"] * 2
    markdown = (tmp_path / "ablation.md").read_text("utf-8").splitlines()
    assert markdown[:2] == [
        "| variant | accuracy | less base | ECE | less base |",
        "| --- " * 5 + "|",
    ]
    assert markdown[3].startswith("| other | 0.500 (0.200 to 0.900) |")
