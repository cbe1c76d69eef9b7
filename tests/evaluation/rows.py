"""Rows of pairs.jsonl with one thing of interest each."""

from __future__ import annotations

from typing import Any

from rlhf.evaluation.preference import PairRow


def make_row(index: int = 0, margin: float = 1.0, **fields: Any) -> PairRow:
    values: dict[str, Any] = {
        "id": f"{index}",
        "prompt_id": f"p{index}",
        "chosen_id": "a",
        "rejected_id": "b",
        "chosen_score": margin,
        "rejected_score": 0.0,
        "margin": margin,
        "grade": 3,
        "chosen_size": "7B",
        "rejected_size": "7B",
        "chosen_stage": "sft",
        "rejected_stage": "sft",
        "chosen_length": 10,
        "rejected_length": 10,
    }
    return PairRow(**{**values, **fields})


def make_rows(margins: list[float], **fields: Any) -> list[PairRow]:
    return [make_row(index, margin, **fields) for index, margin in enumerate(margins)]


def make_ranking_rows(name: str, ranks: list[int], scores: list[float]) -> list[PairRow]:
    """All pairs of one ranking that do not tie; response k is called `rk`."""
    return [
        make_row(
            id=f"{name}:r{i}:r{j}",
            prompt_id=name,
            chosen_id=f"r{i}",
            rejected_id=f"r{j}",
            chosen_score=scores[i],
            rejected_score=scores[j],
            margin=scores[i] - scores[j],
        )
        for i, high in enumerate(ranks)
        for j, low in enumerate(ranks)
        if high < low
    ]
