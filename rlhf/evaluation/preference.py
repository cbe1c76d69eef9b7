"""A row per held-out preference pair: what the reward model said beside what the annotator said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite
from typing import Annotated, Literal

from pydantic import Field

from rlhf.data.jsonl import Record
from rlhf.data.records import PromptRecord, RankingRecord, pair_grades
from rlhf.evaluation.refusals import is_refusal

Oracle = Callable[[PromptRecord, str], float]


class PairRow(Record):
    """A line of rm/pairs.jsonl. `chosen` is the response that the annotator ranked higher.

    margin: chosen_score - rejected_score.
    grade: 1 (unsure) to 5 (significantly better), None when ungraded.
    derived: the grade is summed over several neighbours' gaps.
    chosen_length, rejected_length: characters, which do not depend on a tokenizer.
    chosen_index, rejected_index: places in the record, 0 first; None in files of earlier versions.
    chosen_refusal, rejected_refusal: whether they refuse, by their words; None likewise.
    oracle_gap: noise-free quality of chosen - rejected, None when nobody knows it.
    simulated: the annotator was a program.
    """

    prompt_id: str
    chosen_id: str
    rejected_id: str
    chosen_score: float
    rejected_score: float
    margin: float
    grade: Annotated[int, Field(ge=1, le=5)] | None = None
    derived: bool = False
    category: tuple[str, ...] = ()
    language: str | None = None
    label: Literal["helpful", "harmless"] | None = None
    chosen_size: str
    rejected_size: str
    chosen_stage: str
    rejected_stage: str
    chosen_length: int
    rejected_length: int
    chosen_index: int | None = None
    rejected_index: int | None = None
    chosen_refusal: bool | None = None
    rejected_refusal: bool | None = None
    oracle_gap: float | None = None
    simulated: bool = False

    @property
    def ranking_id(self) -> str:
        """The ranking that the pair is of: `id` without the two responses."""
        return self.id.removesuffix(f":{self.chosen_id}:{self.rejected_id}")


def pair_rows(
    records: Iterable[RankingRecord],
    scores: Iterable[Sequence[float]],
    oracle: Oracle | None = None,
) -> Iterator[PairRow]:
    """Every pair that the annotator told apart, in the order of the records.

    Args:
        records: ranked responses of held-out prompts.
        scores: per record, [K] raw reward-model scores in the order of its responses.
        oracle: noise-free quality of an answer to a prompt, where one exists.

    Raises:
        ValueError: a score that is not finite, or not one score a response.
    """
    for record, record_scores in zip(records, scores, strict=True):
        _check_scores(record, record_scores)
        qualities = [oracle(record.prompt, r.text) for r in record.responses] if oracle else None
        for pair in pair_grades(record.ranks, record.grades):
            chosen, rejected = record.responses[pair.chosen], record.responses[pair.rejected]
            high, low = record_scores[pair.chosen], record_scores[pair.rejected]
            yield PairRow(
                id=f"{record.id}:{chosen.id}:{rejected.id}",
                prompt_id=record.prompt.id,
                chosen_id=chosen.id,
                rejected_id=rejected.id,
                chosen_score=high,
                rejected_score=low,
                margin=high - low,
                grade=pair.grade,
                derived=pair.derived,
                category=record.prompt.category,
                language=record.prompt.language,
                label=record.prompt.label,
                chosen_size=chosen.provenance.size,
                rejected_size=rejected.provenance.size,
                chosen_stage=chosen.provenance.stage,
                rejected_stage=rejected.provenance.stage,
                chosen_length=len(chosen.text),
                rejected_length=len(rejected.text),
                chosen_index=pair.chosen,
                rejected_index=pair.rejected,
                chosen_refusal=is_refusal(chosen.text),
                rejected_refusal=is_refusal(rejected.text),
                oracle_gap=(
                    qualities[pair.chosen] - qualities[pair.rejected] if qualities else None
                ),
                simulated=record.simulated,
            )


def _check_scores(record: RankingRecord, scores: Sequence[float]) -> None:
    if len(scores) != len(record.responses):
        raise ValueError(
            f"ranking {record.id}: {len(scores)} scores for {len(record.responses)} responses; "
            "give one each"
        )
    for response, score in zip(record.responses, scores, strict=True):
        if not isfinite(score):
            raise ValueError(
                f"ranking {record.id}: the reward model scores response {response.id} {score}; "
                "train it again with a lower learning rate or in float32"
            )
