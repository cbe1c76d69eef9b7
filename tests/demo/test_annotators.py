import random

import pytest

from rlhf.config.schema import GradingSection
from rlhf.data.records import Message, PromptRecord, Provenance, RankingTask, Response
from rlhf.demo import annotators, corpus
from rlhf.demo.corpus import Slot

SLOT = Slot(0, 0, 0, "en")
PROMPT = PromptRecord(
    id="p",
    messages=(Message(role="user", content=corpus.question(SLOT, 0)),),
    metadata={"slot": "0,0,0,en"},
)
PROVENANCE = Provenance(family="baichuan", model="m", size="s", stage="sft")


def task(*texts: str) -> RankingTask:
    responses = tuple(
        Response(id=f"r{index}", text=text, provenance=PROVENANCE)
        for index, text in enumerate(texts)
    )
    return RankingTask(id="t", prompt=PROMPT, responses=responses)


def test_ranks_and_grades_of_given_perceptions() -> None:
    # In order 9.0 | gap 0.25 ties | 8.75 | gap 1.25: grade 2 | 7.5 | gap 5.5: grade 5 | 2.0
    ranks, grades = annotators.ranks_and_grades([2.0, 9.0, 7.5, 8.75])
    assert ranks == (3, 1, 2, 1)
    assert grades == (2, 5)


@pytest.mark.parametrize(
    ("gap", "grade"), [(0.4, 1), (1.0, 2), (1.8, 3), (2.8, 4), (5.0, 5), (9, 5)]
)
def test_grade_bounds(gap: float, grade: int) -> None:
    assert annotators.grade_of(gap) == grade


def test_without_noise_the_rubric_decides() -> None:
    good = corpus.good_answer(SLOT, random.Random(0))
    (record,) = annotators.annotate([task("It depends.", good)], noise=0, seed=0)
    assert record.ranks == (2, 1)
    assert record.simulated and "simulated" in (record.annotator or "")


def test_equal_answers_tie_whatever_the_noise() -> None:
    (record,) = annotators.annotate([task("It depends.", "It depends.")], noise=3, seed=0)
    assert record.ranks == (1, 1)


def test_noise_depends_on_seed_task_and_text_alone() -> None:
    tasks = [task("It depends.", "Not sure."), task("It depends.", "Not sure.")]
    first, second = annotators.annotate(tasks, noise=3, seed=1)
    assert first == second
    many = {
        record.ranks
        for seed in range(8)
        for record in annotators.annotate(tasks, noise=3, seed=seed)
    }
    assert len(many) > 1


def test_a_judge_in_the_place_of_people() -> None:
    # In deviations of 2: 4.0 | gap 1.2: grade 4 | 2.8 | gap 0.05 ties | 2.75 | gap 0.3: grade 2
    grading = GradingSection()
    judged = annotators.judge_annotates(task(*"abcd"), [5.6, 8.0, 5.5, 4.9], 2.0, grading, 0)
    assert judged == ((2, 1, 2, 3), (4, 2))


def test_equal_scores_tie_without_a_bound_for_ties() -> None:
    assert annotators.ranks_and_grades([1.0, 1.0, 0.5], 0.0, (1, 2, 3, 4)) == ((1, 1, 2), (1,))
