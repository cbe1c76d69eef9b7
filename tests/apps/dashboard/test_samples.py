from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps.dashboard.runs import Run
from rlhf.apps.dashboard.samples import PAGE, Source, page, sources
from tests.apps.dashboard.worlds import QUESTION, make_run, write_lines


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("a", make_run(tmp_path / "a"))


def test_the_newest_answers_come_first_page_by_page(run: Run) -> None:
    source = sources(run)[0]
    shown, pages = page(run, source, 1)
    assert (source.kind, pages, len(shown)) == ("ppo", 2, PAGE)
    assert shown[0].prompt == QUESTION and shown[0].answers[0].text == "answer 6"
    assert shown[0].remarks == (("iteration", 7), ("score", 6), ("cut off", ""))
    assert [one.answers[0].text for one in page(run, source, 99)[0]] == ["answer 0"]


def test_verdicts_can_be_picked(run: Run) -> None:
    found = {one.kind: one for one in sources(run)}
    counts = {kind: len(page(run, found[kind], 1)[0]) for kind in ("judged", "win", "lose")}
    assert counts == {"judged": 4, "win": 2, "lose": 1}
    shown = page(run, found["lose"], 1)[0][0]
    assert [(one.title, one.text) for one in shown.answers] == [("before", "b"), ("after", "a")]


def test_ranked_responses_stand_in_their_order(run: Run) -> None:
    made = {"size": "7b", "stage": "sft"}
    row = {
        "prompt": {"messages": [{"role": "user", "content": "q"}]},
        "responses": [{"text": "bad", "provenance": made}, {"text": "good", "provenance": made}],
        "ranks": [2, 1],
    }
    write_lines(run.root / "collect/eval_rankings.jsonl", [row])
    source = Source("ranked", "collect", "eval_rankings.jsonl")
    assert source in sources(run)
    (shown,), _ = page(run, source, 1)
    assert [(one.text, one.title) for one in shown.answers] == [
        ("good", "7b sft"),
        ("bad", "7b sft"),
    ]
