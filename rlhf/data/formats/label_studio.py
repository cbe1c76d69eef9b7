"""Label Studio's exports of ranking tasks: a Ranker over a List, or a Pairwise of two texts.

A task's data holds the question under "prompt", and the answers as the List's items {id, body} or
under the names that the Pairwise compares. Of several annotations in a row of the JSON export the
last counts; the others go to metadata. JSON_MIN has a row an annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import AwareDatetime, TypeAdapter

from rlhf.data.formats.reading import Fields, Origin, objects, ranking, reader, rest, text, turn
from rlhf.data.records import RankingRecord

Ranked = tuple[list[str], list[int], dict[str, str]]
"""Answers, their ranks, and what else the task's data holds, as metadata."""

_ANY_TIME: TypeAdapter[AwareDatetime] = TypeAdapter(AwareDatetime)

# What JSON_MIN says about an annotation, next to the task's data and the results.
_ABOUT = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")


def unfold(row: Fields, choices: Sequence[str] = ()) -> Fields:
    """A row as the JSON export has it: one of JSON_MIN gets its data and annotation back.

    JSON_MIN has a result under the name of its control, as a list of values without ids.

    Args:
        choices: names of single choices: bare text there, which nothing else tells from the data.

    Raises:
        ValueError: a Pairwise, of which JSON_MIN does not say what it compared.
    """
    if "annotation_id" not in row:
        return row
    data = {key: value for key, value in row.items() if key not in _ABOUT}
    chosen = {key: [{"choices": [data[key]]}] for key in choices if key in data}
    named = {key: value for key, value in data.items() if _are_results(value)} | chosen
    results = [
        {"from_name": name, "type": next(iter(value)), "value": value}
        for name, values in named.items()
        for value in values
    ]
    if any(result["type"] == "selected" for result in results):
        raise ValueError("JSON_MIN does not say which texts a Pairwise compares: export JSON")
    annotation = {
        "completed_by": row.get("annotator"),
        "created_at": row.get("created_at"),
        "result": results,
    }
    return {
        "data": {key: value for key, value in data.items() if key not in named},
        "annotations": [] if row["annotation_id"] is None else [annotation],
        **{key: row[key] for key in ("id", "agreement") if key in row},
    }


def _are_results(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and each and "id" not in each for each in value)
    )


@reader("label-studio")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """The answers of a task as its last annotation that was not cancelled ranks them."""
    row = unfold(row)
    data, annotations = row.get("data"), objects(row, "annotations")
    if not isinstance(data, dict):
        raise ValueError("field 'data' must be an object")
    submitted = [each for each in annotations if not each.get("was_cancelled")]
    if not submitted:
        raise ValueError("the task has no annotation")
    annotation = submitted[-1]
    results = objects(annotation, "result")
    used = next(filter(_ranks, results), None)
    if used is None:
        raise ValueError("the annotation has no result of type 'ranker' or 'pairwise'")
    texts, ranks, metadata = _KINDS[used["type"]](data, used, used["value"])
    left = {
        "results": [each for each in results if each is not used],
        "other_annotations": [each for each in annotations if each is not annotation],
    }
    metadata |= rest({key: value for key, value in left.items() if value})
    metadata |= rest(row, "data", "annotations")
    prompt = [turn("user", text(data, "prompt"))]
    time = _time(annotation.get("created_at"))
    return ranking(origin, prompt, texts, ranks, metadata, _annotator(annotation), time)


def _ranks(result: Fields) -> bool:
    return str(result.get("type")) in _KINDS and isinstance(result.get("value"), dict)


def _pairwise(data: Fields, result: Fields, value: Fields) -> Ranked:
    names = [name.strip() for name in text(result, "to_name").split(",")]
    if len(names) != 2:
        raise ValueError(f"a pairwise result compares two texts, not {len(names)}")
    texts = [text(data, name) for name in names]
    order = {"left": [1, 2], "right": [2, 1]}
    selected = text(value, "selected")
    if selected not in order:
        raise ValueError(f"a pairwise result selects left or right, not {selected!r}")
    return texts, order[selected], rest(data, "prompt", *names, prefix="data.")


def _ranker(data: Fields, result: Fields, value: Fields) -> Ranked:
    columns = value.get("ranker")
    if not isinstance(columns, dict) or len(columns) != 1:
        raise ValueError("a ranker result must have one column; buckets are no ranking")
    (order,) = columns.values()
    lists = [key for key, field in data.items() if isinstance(field, list)]
    if len(lists) != 1:
        raise ValueError("the task's data must have one list of items to rank")
    items = objects(data, lists[0])
    names = [str(item.get("id")) for item in items]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(names):
        raise ValueError(f"the ranking {order} is not an order of the items {names}")
    places = {str(name): place for place, name in enumerate(order, start=1)}
    metadata = rest(data, "prompt", lists[0], prefix="data.")
    for name, item in zip(names, items, strict=True):
        metadata |= rest(item, "id", "body", prefix=f"item_{name}.")
    return [text(item, "body") for item in items], [places[name] for name in names], metadata


_KINDS: dict[str, Callable[[Fields, Fields, Fields], Ranked]] = {
    "ranker": _ranker,
    "pairwise": _pairwise,
}


def _annotator(annotation: Fields) -> str | None:
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    return None if person is None else str(person)


def _time(created: Any) -> Any:
    """A number, also as a table's text, counts the seconds or milliseconds since 1970."""
    if isinstance(created, str) and not created.replace(".", "", 1).isdecimal():
        return created
    return None if created is None else _ANY_TIME.validate_python(created)
