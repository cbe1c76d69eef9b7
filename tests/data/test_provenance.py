from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from rlhf.data.provenance import family_filter, keep_responses, listed_hashes, pairs_by_origin
from rlhf.data.records import PairGrade, RankingRecord, pair_grades
from rlhf.evaluation.preference import pair_rows
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.checkpoint import checkpoint_hash

GRADES = [1, 2, 4]


def ranking(identity: str, families: str, ranks: list[int], grades: list[int]) -> RankingRecord:
    """`families`: a letter a response, b for baichuan, x for another."""
    responses = [
        {
            "id": str(i),
            "text": "t",
            "provenance": {
                "family": {"b": "baichuan", "x": "other"}[letter],
                "model": "m",
                "size": ["7b", "13b"][i % 2],
                "stage": ["sft", "ppo"][i % 2],
                "checkpoint_hash": f"hash{i}",
            },
        }
        for i, letter in enumerate(families)
    ]
    prompt = {"id": "p", "messages": [{"role": "user", "content": "Q"}]}
    row = {"id": identity, "prompt": prompt, "responses": responses, "ranks": ranks}
    return RankingRecord.model_validate(row | {"grades": grades})


RANKINGS = [
    ranking("r1", "bxbb", [4, 2, 1, 3], GRADES),
    ranking("r2", "bx", [1, 2], [3]),
    ranking("r3", "bb", [1, 1], []),
]


def test_refuse_counts_by_source_and_says_how_to_mend() -> None:
    with pytest.raises(ValueError) as caught:
        family_filter(RANKINGS, "refuse", {"baichuan"})
    assert "2 from other/m" in str(caught.value) and "rm.data.off_family" in str(caught.value)


@pytest.mark.parametrize("mode", ["refuse", "drop"])
def test_drop_is_not_offered_where_it_leaves_none(mode: Literal["refuse", "drop"]) -> None:
    """r2 has one response of the family, and one alone makes no ranking."""
    with pytest.raises(ValueError) as caught:
        family_filter(RANKINGS[1:2], mode, {"baichuan"})
    assert str(caught.value) == (
        "responses from outside the families ['baichuan']: 1 from other/m; remove them, or set "
        "rm.data.off_family to allow, for drop leaves no ranking"
    )


def test_refuse_passes_a_clean_file_unchanged() -> None:
    kept, report = family_filter(RANKINGS[2:], "refuse", {"baichuan"}, known_hashes={"hash0"})
    assert kept == RANKINGS[2:]
    assert (report.proven, report.declared, report.off_family) == (1, 1, {})


def test_another_familys_response_is_not_proven() -> None:
    record = ranking("r", "bx", [1, 2], [3])
    _, report = family_filter([record], "allow", {"baichuan"}, known_hashes={"hash1"})
    assert (report.proven, report.declared) == (0, 1)


def test_a_hash_is_the_same_in_capitals() -> None:
    record = ranking("r", "bb", [1, 2], [3])
    shouted = [
        each.model_copy(
            update={"provenance": each.provenance.model_copy(update={"checkpoint_hash": "AB"})}
        )
        for each in record.responses
    ]
    record = record.model_copy(update={"responses": tuple(shouted)})
    assert family_filter([record], "refuse", {"baichuan"}, {"ab"})[1].proven == 2


def test_drop_takes_responses_out_and_records_that_become_too_small() -> None:
    kept, report = family_filter(iter(RANKINGS), "drop", {"baichuan"})
    assert [record.id for record in kept] == ["r1", "r3"]
    assert [response.id for response in kept[0].responses] == ["0", "2", "3"]
    # Of ranks 4, 2, 1, 3 the second is gone; the gap from 1 to 3 is 1 + 2, from 1 to 4 it is 5.
    assert pair_grades(kept[0].ranks, kept[0].grades) == [
        PairGrade(chosen=1, rejected=0, grade=5, derived=True),
        PairGrade(chosen=1, rejected=2, grade=3, derived=True),
        PairGrade(chosen=2, rejected=0, grade=4, derived=False),
    ]
    assert kept[1] == RANKINGS[2]
    assert report.responses == {"baichuan/m": 6, "other/m": 2}
    assert report.off_family == {"other/m": 2}
    assert (report.responses_dropped, report.records_dropped) == (2, 1)


def test_allow_keeps_everything_and_still_reports() -> None:
    kept, report = family_filter(RANKINGS, "allow", {"baichuan"})
    assert kept == RANKINGS
    assert report.mode == "allow" and report.off_family == {"other/m": 2}
    assert (report.responses_dropped, report.records_dropped) == (0, 0)


def test_listed_checkpoints_are_folders_or_hashes(tmp_path: Path) -> None:
    BaichuanConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = listed_hashes([str(tmp_path), "AB" * 32], {"baichuan"})
    assert found == {checkpoint_hash(tmp_path), "ab" * 32}
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert len(found & listed_hashes([str(tmp_path), "ab" * 32], {"baichuan"})) == 1
    with pytest.raises(ValueError, match="known_checkpoints: 'abc' is neither"):
        listed_hashes(["abc"], {"baichuan"})
    with pytest.raises(ValueError, match="is of the family 'baichuan', which proves nothing"):
        listed_hashes([str(tmp_path)], {"moss"})


def test_kept_pairs_keep_their_grades() -> None:
    record = ranking("r", "bbbb", [1, 2, 3, 4], [2, 4, 1])
    kept = [0, 2, 3]
    before = {
        (p.chosen, p.rejected): (p.grade, p.derived)
        for p in pair_grades(record.ranks, record.grades)
        if p.chosen in kept and p.rejected in kept
    }
    narrowed = keep_responses(record, kept)
    after = {
        (kept[p.chosen], kept[p.rejected]): (p.grade, p.derived)
        for p in pair_grades(narrowed.ranks, narrowed.grades)
    }
    assert after == before == {(0, 2): (5, True), (0, 3): (5, True), (2, 3): (1, False)}
    middle = keep_responses(record, [1, 2])
    assert pair_grades(middle.ranks, middle.grades) == [PairGrade(0, 1, 4, derived=False)]


def test_a_pair_across_a_dropped_response_stays_derived() -> None:
    """Ranks 1, 2, 3 with grades 2, 2: without the middle one 4, which nobody gave."""
    (kept,), _ = family_filter([ranking("r", "bxb", [1, 2, 3], [2, 2])], "drop", {"baichuan"})
    (row,) = pair_rows([kept], [[1.0, 0.0]])
    assert (row.chosen_id, row.rejected_id, row.grade, row.derived) == ("0", "2", 4, True)
    again = keep_responses(kept, [0, 1])  # as what is too long is taken out afterwards
    assert pair_grades(again.ranks, again.grades) == [PairGrade(0, 1, 4, derived=True)]


def test_a_rank_that_another_response_still_has_is_not_gone() -> None:
    (kept,), _ = family_filter([ranking("r", "bxbb", [1, 2, 2, 3], [2, 2])], "drop", {"baichuan"})
    assert pair_grades(kept.ranks, kept.grades) == [
        PairGrade(0, 1, 2, derived=False),
        PairGrade(0, 2, 4, derived=True),
        PairGrade(1, 2, 2, derived=False),
    ]


def test_pairs_by_size_and_stage() -> None:
    # r1 in rank order: 13b ppo is responses 1 and 3, 7b sft is 0 and 2; 2 > 1 > 3 > 0.
    expected = {
        "13b ppo": {"13b ppo": 1, "7b sft": 2},
        "7b sft": {"13b ppo": 2, "7b sft": 1},
    }
    assert pairs_by_origin(RANKINGS[:1]) == expected
    assert pairs_by_origin(RANKINGS[2:]) == {}
    assert family_filter(RANKINGS[:1], "allow", {"baichuan"})[1].pairs == expected
    # Without response 1: 2 > 3 > 0.
    assert family_filter(RANKINGS, "drop", {"baichuan"})[1].pairs == {
        "13b ppo": {"7b sft": 1},
        "7b sft": {"13b ppo": 1, "7b sft": 1},
    }
