from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation import policy_report
from rlhf.evaluation.policy import compare_rows
from rlhf.evaluation.policy_report import Judged
from tests.evaluation.pages import read_page, untranslated

CATEGORIES = (("life", "food", "rice"), ("life", "food", "tea"), ("work",), ("work", "mail"))
CURVE = [{"step": i, "kl": 0.1 * i, "score": 1.0 + i, "entropy": 2.0} for i in range(5)]


def judged(name: str, gains: list[float], kl: float, proxy: bool = True) -> Judged:
    prompts = [
        PromptRecord(
            id=f"p{i}",
            messages=(Message(role="user", content=f"<b>{i}</b>"),),
            category=category,
            label="harmless" if i == 3 else "helpful",
        )
        for i, category in enumerate(CATEGORIES)
    ]
    texts = ["ab", "ab", "ab", "ab"], ["abcd", "ba", "a", "abc"]
    rows = compare_rows(prompts, *texts, [0.0] * 4, gains, judge="some judge")
    scores = ([0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]) if proxy else None
    return Judged(name, list(rows), [kl] * 4, scores)


def summarised(
    before: list[str],
    after: list[str],
    gains: list[float],
    proxy: tuple[list[float], list[float]] | None = None,
) -> dict[str, Any]:
    prompts = [
        PromptRecord(id=f"p{i}", messages=(Message(role="user", content="Q"),))
        for i in range(len(before))
    ]
    rows = compare_rows(prompts, before, after, [0.0] * len(gains), gains, judge="some judge")
    return policy_report.summarise(Judged("PPO", list(rows), [0.0] * len(gains), proxy))


def test_the_folder_says_it_all(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    policies = [judged("PPO", [1.0, 2.0, 0.0, -1.0], 0.4), judged("DPO", [1.0] * 4, 0.9)]
    curve = [{**row, "score_gain": 1.0, "judge_gain": 0.5} if row["step"] else row for row in CURVE]
    report = policy_report.write(folder, "SFT", policies, curve, samples=2)
    assert json.loads((folder / "report.json").read_text("utf-8")) == report
    ppo, dpo = report["policies"]
    assert (ppo["name"], ppo["win"], ppo["tie"], ppo["lose"]) == ("PPO", 2, 1, 1)
    assert ppo["win_rate"]["rate"] == pytest.approx(2.5 / 4) and dpo["win_rate"]["rate"] == 1.0
    assert ppo["kl"] == pytest.approx(0.4)
    assert (ppo["proxy"]["before"], ppo["proxy"]["after"]) == (0.5, 0.75)
    assert (ppo["proxy"]["win"], ppo["proxy"]["tie"], ppo["proxy"]["lose"]) == (2, 1, 1)
    assert report["curve"][0] == {"step": 0, "kl": 0.0, "score": 1.0}
    assert report["curve"][2] == {
        "step": 2,
        "kl": 0.2,
        "score": 3.0,
        "score_gain": 1.0,
        "judge_gain": 0.5,
    }
    levels = [(row["level"], row["name"], row["prompts"]) for row in ppo["by_level"]]
    assert levels == [
        (1, "life", 2),
        (1, "work", 2),
        (2, "life / food", 2),
        (2, "work / mail", 1),
        (3, "life / food / rice", 1),
        (3, "life / food / tea", 1),
    ]
    html = read_page(folder / "index.html")
    assert untranslated(html, report) == []
    assert "&lt;b&gt;0&lt;/b&gt;" in html and "<b>0</b>" not in html
    assert "some judge" in html and "life / food / rice" in html and html.count("<article>") == 2
    with (folder / "policies.csv").open(encoding="utf-8") as stream:
        assert [row["policy"] for row in csv.DictReader(stream)] == ["PPO", "DPO"]
    with (folder / "groups.csv").open(encoding="utf-8") as stream:
        assert sum(row["policy"] == "DPO" for row in csv.DictReader(stream)) == 2 + 6
    for name in ("frontier", "gains", "overoptimisation"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert policy_report.lines(report)[0][0] == "PPO"


def test_identical_answers_tie_by_the_proxy_too() -> None:
    """Whose two scores of one answer may differ in their last bits."""
    scores = [1.0, 1.0], [1.0000001, 2.0]
    found = summarised(["same", "a"], ["same", "b"], [0.0, 1.0], scores)["proxy"]
    assert (found["win"], found["tie"], found["lose"]) == (1, 1, 0)


def test_the_longer_answer_is_the_policys() -> None:
    found = summarised(["aa"] * 4, ["aaaa", "aaaa", "a", "a"], [1.0, 1.0, -1.0, -1.0])
    assert found["length_controlled"]["slope"] > 0


def test_without_a_proxy_there_is_the_judge_alone(tmp_path: Path) -> None:
    report = policy_report.write(
        tmp_path / "report", "SFT", [judged("PPO", [1.0] * 4, 0.1, proxy=False)]
    )
    assert report["policies"][0]["proxy"] is None
    assert [sketch.name for sketch in policy_report.sketches(report)] == ["overoptimisation"]


def test_iterations_without_a_finite_value_are_left_out_of_the_plots(tmp_path: Path) -> None:
    """As rows without the key: of two with a gain of the judge one has no KL, one no score."""
    curve = [
        {"step": 0, "kl": 0.0, "score": 1.0},
        {"step": 1, "score": 2.0, "judge_gain": 0.5, "score_gain": 1.0},
        {"step": 2, "kl": 0.2, "judge_gain": 0.5},
    ]
    policies = [judged("PPO", [1.0, 2.0, 0.0, -1.0], 0.4)]
    report = policy_report.write(tmp_path / "a", "SFT", policies, curve)
    assert report["curve"] == curve
    assert (tmp_path / "a" / "gains.png").is_file() and (tmp_path / "a" / "frontier.png").is_file()
    policy_report.write(tmp_path / "b", "SFT", policies, curve[:2])
    assert not (tmp_path / "b" / "gains.png").exists()
