from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import Message, PromptRecord, Provenance, RankingRecord, Response
from rlhf.evaluation.preference import PairRow, pair_rows


def make_record(ranks: tuple[int, ...], grades: tuple[int, ...]) -> RankingRecord:
    texts = ("long answer", "short", "mid one", "else")
    sources = (("7B", "sft"), ("13B", "ppo"), ("7B", "sft"), ("7B", "ppo"))
    responses = tuple(
        Response(
            id=f"r{index}",
            text=text,
            provenance=Provenance(family="baichuan", model="m", size=size, stage=stage),
        )
        for index, (text, (size, stage)) in enumerate(zip(texts, sources, strict=True))
    )
    return RankingRecord(
        id="ranking-1",
        prompt=PromptRecord(
            id="prompt-1",
            messages=(Message(role="user", content="question"),),
            category=("a", "b", "c"),
            label="helpful",
            language="en",
        ),
        responses=responses[: len(ranks)],
        ranks=ranks,
        grades=grades,
        simulated=True,
    )


def test_a_row_by_hand() -> None:
    record = make_record(ranks=(2, 1, 3), grades=(1, 3))
    quality = {"long answer": 2.0, "short": 7.0, "mid one": 4.0}
    rows = {row.id: row for row in pair_rows([record], [[0.5, 2.0, -1.0]], lambda _, t: quality[t])}
    assert set(rows) == {"ranking-1:r1:r0", "ranking-1:r1:r2", "ranking-1:r0:r2"}
    assert rows["ranking-1:r1:r2"] == PairRow(
        id="ranking-1:r1:r2",
        prompt_id="prompt-1",
        chosen_id="r1",
        rejected_id="r2",
        chosen_score=2.0,
        rejected_score=-1.0,
        margin=3.0,
        grade=4,
        derived=True,
        category=("a", "b", "c"),
        language="en",
        label="helpful",
        chosen_size="13B",
        rejected_size="7B",
        chosen_stage="ppo",
        rejected_stage="sft",
        chosen_length=5,
        rejected_length=7,
        chosen_index=1,
        rejected_index=2,
        chosen_refusal=False,
        rejected_refusal=False,
        oracle_gap=3.0,
        simulated=True,
    )
    assert {row.ranking_id for row in rows.values()} == {"ranking-1"}
    direct = rows["ranking-1:r0:r2"]
    assert (direct.grade, direct.derived, direct.margin, direct.oracle_gap) == (3, False, 1.5, -2.0)


def test_each_side_has_its_own_refusal() -> None:
    record = make_record(ranks=(1, 2), grades=())
    answer, other = record.responses
    refusal = other.model_copy(update={"text": "I cannot help with that."})
    record = record.model_copy(update={"responses": (answer, refusal)})
    (row,) = pair_rows([record], [[1.0, 0.0]])
    assert (row.chosen_refusal, row.rejected_refusal) == (False, True)


def test_ties_make_no_row_and_ungraded_pairs_have_no_grade() -> None:
    rows = list(pair_rows([make_record(ranks=(1, 1, 2), grades=())], [[0.0, 1.0, 2.0]]))
    assert [(row.chosen_id, row.rejected_id) for row in rows] == [("r0", "r2"), ("r1", "r2")]
    assert all(row.grade is None and row.oracle_gap is None for row in rows)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="ranking-1: the reward model scores response r1 nan"):
        list(pair_rows([make_record((1, 2), (2,))], [[0.0, float("nan")]]))


def test_one_score_a_response() -> None:
    with pytest.raises(ValueError, match="ranking-1: 1 scores for 2 responses"):
        list(pair_rows([make_record((1, 2), (2,))], [[0.0]]))


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = list(pair_rows([make_record((2, 1, 3), (1, 3))], [[0.1, 0.2, 0.3]]))
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    assert list(read_jsonl(tmp_path / "pairs.jsonl", PairRow)) == rows
