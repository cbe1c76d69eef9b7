from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rlhf.apps.annotate.ranking import Answer, as_given, as_shown, dense, shown_order, to_record
from tests.apps.annotate.worlds import task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_shown_order_is_a_permutation_fixed_by_annotator_and_task() -> None:
    assert sorted(shown_order("ann", "t1", 6)) == list(range(6))
    assert shown_order("ann", "t1", 6) == shown_order("ann", "t1", 6)
    assert shown_order("ann", "t1", 6) != shown_order("bob", "t1", 6)


def test_no_response_profits_from_its_place() -> None:
    first = [shown_order("ann", f"t{number}", 4)[0] for number in range(2000)]
    assert all(430 < first.count(index) < 570 for index in range(4))


def test_ranks_go_back_to_the_given_order() -> None:
    # Shown: given response 2, then 0, then 1. The annotator likes the first shown best.
    assert as_given([1, 3, 2], [2, 0, 1]) == (3, 2, 1)
    assert as_shown((3, 2, 1), [2, 0, 1]) == [1, 3, 2]


def test_dense_closes_holes_and_keeps_ties() -> None:
    assert dense([1, 1, 3, 7]) == (1, 1, 2, 3)
    assert dense([4, 2, 4]) == (2, 1, 2)


def test_record_takes_the_annotators_label() -> None:
    answer = Answer(ranks=(2, 1, 2, 3), grades=(5, 1), label="harmless")
    record = to_record(task(1), answer, "ann", NOW, record_id="t1")
    assert (record.ranks, record.grades, record.annotator) == ((2, 1, 2, 3), (5, 1), "ann")
    assert record.prompt.label == "harmless"
    assert not record.simulated
    assert record.responses == task(1).responses


@pytest.mark.parametrize("grades", [(), (3,), (3, 3, 3)])
def test_record_refuses_gaps_without_a_grade(grades: tuple[int, ...]) -> None:
    answer = Answer(ranks=(2, 1, 2, 3), grades=grades, label="helpful")
    with pytest.raises(ValueError, match="grade each gap"):
        to_record(task(1), answer, "ann", NOW, record_id="t1")
