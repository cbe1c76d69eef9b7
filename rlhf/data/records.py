"""The records that stages exchange: demonstrations, prompts, ranked responses. JSONL.

The JSON Schemas in data_schemas/ are exported from the models here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from rlhf.data.fields import (
    Category,
    Grade,
    Grades,
    Label,
    Number,
    Role,
    Stage,
    Time,
    Whole,
    Wholes,
)
from rlhf.data.jsonl import Part, Record, Text, read_jsonl, write_jsonl

__all__ = [
    "Grade",
    "Label",
    "Message",
    "PairGrade",
    "PluginUse",
    "PromptRecord",
    "Provenance",
    "RankingRecord",
    "RankingTask",
    "Response",
    "SFTRecord",
    "export_schemas",
    "pair_grades",
    "read_jsonl",
    "write_jsonl",
]


class PluginUse(Part):
    """What MOSS did with plugins before it answered; "None" where it did nothing."""

    inner_thoughts: Text = "None"
    commands: Text = "None"
    results: Text = "None"


class Message(Part):
    """One turn of a conversation. `plugins`: of an answer, for MOSS; other models do not see it."""

    role: Role
    content: Text
    plugins: PluginUse | None = None

    @model_validator(mode="after")
    def _answers(self) -> Message:
        if self.plugins is not None and self.role != "assistant":
            raise ValueError(f"plugins belong to the assistant, not to {self.role!r}")
        return self


Messages = Annotated[tuple[Message, ...], Field(min_length=1)]


class SFTRecord(Record):
    """A demonstration: a conversation that ends with the assistant, and where it comes from."""

    messages: Messages
    label: Label | None = None
    source: Text
    annotator: Text | None = None
    batch: Text | None = None
    category: Category = ()
    language: Text | None = None
    metadata: dict[str, str] = {}

    @model_validator(mode="after")
    def _turns(self) -> SFTRecord:
        _check_turns(self.messages, last="assistant")
        return self


class PromptRecord(Record):
    """A conversation that waits for the assistant. `category`: taxonomy path, or empty."""

    messages: Messages
    category: Category = ()
    label: Label | None = None
    language: Text | None = None
    metadata: dict[str, str] = {}

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content

    @model_validator(mode="after")
    def _turns(self) -> PromptRecord:
        _check_turns(self.messages, last="user")
        return self


class TextRecord(Record):
    """A document as models are pre-trained on."""

    text: Text


class Provenance(Part):
    """What produced a response: a checkpoint, its family, size and stage, and the sampling."""

    family: Text
    model: Text
    size: Text
    stage: Stage
    checkpoint_hash: Text | None = None
    sampling: dict[str, Whole | Number | tuple[str, ...]] = {}


class Response(Part):
    """One answer to a prompt. `token_ids`: as sampled, with the end token if there was one, or the
    stop string, which `text` leaves out.

    A model may say nothing at all; an answer without `token_ids` has text.
    """

    id: Text
    text: str
    provenance: Provenance
    token_ids: Wholes | None = None
    stop_reason: Literal["eos", "length", "stop"] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Response:
        if self.token_ids is None and not self.text.strip():
            raise ValueError("text: the text is empty")
        return self


Responses = Annotated[tuple[Response, ...], Field(min_length=1)]


class RankingTask(Record):
    """A prompt and its responses, waiting for an annotator."""

    prompt: PromptRecord
    responses: Responses

    @model_validator(mode="after")
    def _distinct(self) -> RankingTask:
        _check_distinct(self.responses)
        return self


class RankingRecord(Record):
    """Responses ranked by an annotator.

    ranks: one a response; 1 is best, equal ranks tie, no number is skipped.
    grades: 1 (unsure) to 5 (significantly better) of the gaps between neighbouring ranks, the best
        pair first; empty when the gaps were not graded.
    """

    prompt: PromptRecord
    responses: Annotated[tuple[Response, ...], Field(min_length=2)]
    ranks: Wholes
    grades: Grades = ()
    annotator: Text | None = None
    time: Time | None = None
    simulated: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _is_ranking(self) -> RankingRecord:
        _check_distinct(self.responses)
        if len(self.ranks) != len(self.responses):
            raise ValueError(
                f"{len(self.ranks)} ranks for {len(self.responses)} responses: give one each"
            )
        distinct = set(self.ranks)
        if distinct != set(range(1, len(distinct) + 1)):
            raise ValueError(
                f"ranks {list(self.ranks)} are not a ranking: use 1, 2, ... with no hole"
            )
        if self.grades and len(self.grades) != len(distinct) - 1:
            raise ValueError(
                f"{len(self.grades)} grades for {len(distinct)} distinct ranks: give one to each "
                f"gap between neighbours ({len(distinct) - 1}), or none at all"
            )
        return self


class PairGrade(NamedTuple):
    """A pair of one ranking: indices of its responses, the grade of the gap (None: ungraded)."""

    chosen: int
    rejected: int
    grade: int | None
    derived: bool


def pair_grades(ranks: Iterable[int], grades: Iterable[int]) -> list[PairGrade]:
    """All pairs of a ranking that do not tie, each with its grade.

    A pair further apart than neighbours gets min(5, the sum of the gaps between), marked derived.

    Args:
        ranks: [K], 1 is best, 0 is padding (makes no pair).
        grades: [distinct ranks - 1] of the gaps between neighbours, or empty when ungraded.
    """
    ranks, gaps = list(ranks), list(grades)
    pairs = []
    for chosen, high in enumerate(ranks):
        for rejected, low in enumerate(ranks):
            if 0 < high < low:
                grade = min(5, sum(gaps[high - 1 : low - 1])) if gaps else None
                pairs.append(PairGrade(chosen, rejected, grade, bool(gaps) and low - high > 1))
    return pairs


def export_schemas(directory: str | Path) -> None:
    """Writes the JSON Schema of each record that users hand in: sft, prompt, ranking, text."""
    exported: dict[str, type[Record]] = {
        "sft": SFTRecord,
        "prompt": PromptRecord,
        "ranking": RankingRecord,
        "text": TextRecord,
    }
    for name, model in exported.items():
        text = json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False)
        Path(directory, f"{name}.schema.json").write_text(text + "\n", encoding="utf-8")


def _check_turns(messages: tuple[Message, ...], last: Role) -> None:
    turns = messages[1:] if messages[0].role == "system" else messages
    expected: Role = "user"
    for message in turns:
        if message.role != expected:
            raise ValueError(
                f"messages: {message.role!r} where {expected!r} was expected; turns alternate"
            )
        expected = "assistant" if expected == "user" else "user"
    if not turns or turns[-1].role != last:
        raise ValueError(f"messages: the last turn must be {last!r}")


def _check_distinct(responses: tuple[Response, ...]) -> None:
    if len({response.id for response in responses}) < len(responses):
        raise ValueError("responses: two have the same id")
