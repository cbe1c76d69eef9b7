"""The same tasks for teams that work in Label Studio: its JSON out, its JSON or JSON_MIN back in.

A Ranker over a List gives an order without ties; the gaps stay ungraded.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError, model_validator

from rlhf.apps.annotate.job import Job, rankings_of
from rlhf.apps.annotate.ranking import as_given, shown_order
from rlhf.data.formats.label_studio import unfold
from rlhf.data.jsonl import in_one_line, read_jsonl, whole_files, write_jsonl
from rlhf.data.records import Label, RankingRecord, RankingTask

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ORDER = "label-studio"  # stands for the annotator in shown_order: there all see the same order
INTERFACE = """\
<View>
  <Header value="$category" size="5"/>
  <Text name="prompt" value="$prompt"/>
  <List name="answers" value="$answers" title="Best first · 最好的放在最前"/>
  <Ranker name="rank" toName="answers"/>
  <Choices name="label" toName="prompt" choice="single" required="true" showInline="true">
    <Choice value="helpful" hint="有用"/>
    <Choice value="harmless" hint="无害"/>
  </Choices>
</View>
"""


class _Data(BaseModel):
    source: str
    task: str


class _Result(BaseModel):
    type: str
    value: dict[str, Any] = {}


class _Annotation(BaseModel):
    result: list[_Result]
    completed_by: int | str | dict[str, Any] = ""
    created_at: AwareDatetime | None = None
    was_cancelled: bool = False


class _Row(BaseModel):
    data: _Data
    annotations: list[_Annotation] = []

    @model_validator(mode="before")
    @classmethod
    def _unfolded(cls, row: Any) -> Any:
        return unfold(row, choices=("label",)) if isinstance(row, dict) else row


_Rows = TypeAdapter(Annotated[list[_Row], Field(min_length=1)])


def write_tasks(job: Job, path: Path) -> int:
    """Write all tasks as Label Studio's JSON, responses shuffled and without their sources.

    The labelling interface to put into the project goes beside them (interface).
    """
    if any(path.resolve() == source.resolve() for source in job.sources):
        raise ValueError(f"{path}: would be overwritten; give Label Studio's file another name")
    rows = []
    for source in job.sources:
        for task in read_jsonl(source, RankingTask):
            shown = shown_order(ORDER, task.id, len(task.responses))
            answers = [
                {"id": letter, "body": task.responses[index].text}
                for letter, index in zip(LETTERS[: len(shown)], shown, strict=True)
            ]
            turns = [f"[{message.role}] {message.content}" for message in task.prompt.messages]
            prompt = task.prompt.text if len(turns) == 1 else "\n\n".join(turns)
            category = " / ".join(task.prompt.category)
            data = {"source": source.name, "task": task.id, "category": category}
            rows.append({"data": {**data, "prompt": prompt, "answers": answers}})
    with whole_files(path, interface(path)) as (tasks, view):
        tasks.write(json.dumps(rows, ensure_ascii=False, indent=1).encode())
        view.write(INTERFACE.encode())
    return len(rows)


def interface(tasks: Path) -> Path:
    """Where the labelling interface of these tasks lies."""
    return tasks.with_suffix(".interface.xml")


def read_answers(job: Job, path: Path) -> dict[Path, int]:
    """Turn Label Studio's JSON or JSON_MIN export of these tasks into records beside them.

    Cancelled annotations and tasks without one are passed over. Returns how many went where.

    Raises:
        ValueError: not such an export, a task that is not this job's, an order that is none.
    """
    try:
        rows = _Rows.validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name Label Studio's JSON export") from None
    except ValidationError as error:
        raise ValueError(f"{path}: not Label Studio's JSON: {in_one_line(error)}") from None
    tasks = {
        (source.name, task.id): task
        for source in job.sources
        for task in read_jsonl(source, RankingTask)
    }
    annotations: dict[tuple[str, str], list[_Annotation]] = defaultdict(list)
    for row in rows:
        annotations[row.data.source, row.data.task] += row.annotations
    records: dict[str, list[RankingRecord]] = defaultdict(list)
    for (source_name, name), own_annotations in annotations.items():
        if (source_name, name) not in tasks:
            raise ValueError(f"{path}: task {name!r} of {source_name} is not this job's")
        try:
            records[source_name] += _records(tasks[source_name, name], own_annotations)
        except ValueError as error:
            raise ValueError(f"{path}: task {name!r}: {error}") from None
    written = {}
    with job.database.transaction() as connection:
        for source in job.sources:
            if own := records[source.name]:
                written[rankings_of(source)] = write_jsonl(rankings_of(source), own)
                job.disown(connection, source)
    return written


def _records(task: RankingTask, annotations: list[_Annotation]) -> Iterator[RankingRecord]:
    valid = [annotation for annotation in annotations if not annotation.was_cancelled]
    times = Counter(_name(annotation) for annotation in valid)
    for number, annotation in enumerate(valid):
        name = _name(annotation)
        suffix = f"@{name}" if times[name] == 1 else f"@{name}#{number}"
        values = {result.type: result.value for result in annotation.result}
        ranks = _ranks(values.get("ranker", {}), task)
        label = _label(values.get("choices", {})) or task.prompt.label
        yield RankingRecord(
            id=task.id + (suffix if len(valid) > 1 else ""),
            prompt=task.prompt.model_copy(update={"label": label}),
            responses=task.responses,
            ranks=ranks,
            annotator=name,
            time=annotation.created_at,
        )


def _ranks(value: dict[str, Any], task: RankingTask) -> tuple[int, ...]:
    columns = value.get("ranker")
    order = next(iter(columns.values()), None) if isinstance(columns, dict) else columns
    if order is None:
        raise ValueError("submitted without a ranking; rank it there, or cancel the annotation")
    letters = list(LETTERS[: len(task.responses)])
    if not isinstance(order, list) or sorted(map(str, order)) != letters:
        raise ValueError(f"the ranking {order} is not an order of {' '.join(letters)}")
    ranks = [order.index(letter) + 1 for letter in letters]
    return as_given(ranks, shown_order(ORDER, task.id, len(letters)))


def _label(value: dict[str, Any]) -> Label | None:
    chosen = value.get("choices")
    first = chosen[0] if isinstance(chosen, list) and chosen else chosen or None
    if first is not None and first not in get_args(Label):
        raise ValueError(f"the label {first!r} is none of {' '.join(get_args(Label))}")
    label: Label | None = first
    return label


def _name(annotation: _Annotation) -> str:
    person = annotation.completed_by
    if isinstance(person, dict):
        person = person.get("email") or person.get("id") or ""
    return str(person) or ORDER
