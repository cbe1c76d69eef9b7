"""Label Studio's JSON export of ranking tasks: a Ranker over a List, or a Pairwise of two texts.

A task's data holds the question under "prompt", and the answers as the List's items {id, body} or
under the names that the Pairwise compares. Of several annotations the last counts; the others go to
metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf.data.formats.reading import Fields, Origin, objects, ranking, reader, rest, text, turn
from rlhf.data.records import RankingRecord

Ranked = Callable[[Fields, Fields, Fields], tuple[list[str], list[int]]]


@reader("label-studio")
def read(row: Fields, origin: Origin) -> RankingRecord:
    """The answers of a task as its last annotation that was not cancelled ranks them."""
    data = row.get("data")
    if not isinstance(data, dict):
        raise ValueError("field 'data' must be an object")
    submitted = [each for each in objects(row, "annotations") if not each.get("was_cancelled")]
    if not submitted:
        raise ValueError("the task has no annotation")
    annotation = submitted[-1]
    results = objects(annotation, "result")
    texts, ranks = _ranked(data, results)
    metadata = rest(row, "data", "annotations", "predictions", "drafts")
    metadata |= rest({"annotations": submitted[:-1] or None})
    metadata |= rest(
        {"results": [each for each in results if each.get("type") not in _KINDS] or None}
    )
    prompt = [turn("user", text(data, "prompt"))]
    time = annotation.get("created_at")
    return ranking(origin, prompt, texts, ranks, metadata, _annotator(annotation), time)


def _ranked(data: Fields, results: list[Fields]) -> tuple[list[str], list[int]]:
    for result in results:
        kind, value = result.get("type"), result.get("value")
        if kind in _KINDS and isinstance(value, dict):
            return _KINDS[kind](data, result, value)
    raise ValueError("the annotation has no result of type 'ranker' or 'pairwise'")


def _pairwise(data: Fields, result: Fields, value: Fields) -> tuple[list[str], list[int]]:
    names = text(result, "to_name").split(",")
    if len(names) != 2:
        raise ValueError(f"a pairwise result compares two texts, not {len(names)}")
    texts = [text(data, name.strip()) for name in names]
    order = {"left": [1, 2], "right": [2, 1]}
    if value.get("selected") not in order:
        raise ValueError(f"a pairwise result selects left or right, not {value.get('selected')!r}")
    return texts, order[value["selected"]]


def _ranker(data: Fields, result: Fields, value: Fields) -> tuple[list[str], list[int]]:
    columns = value.get("ranker")
    if not isinstance(columns, dict) or len(columns) != 1:
        raise ValueError("a ranker result must have one column; buckets are no ranking")
    (order,) = columns.values()
    listed = [field for field in data.values() if isinstance(field, list)]
    if len(listed) != 1:
        raise ValueError("the task's data must have one list of items to rank")
    items = objects({"items": listed[0]}, "items")
    names = [str(item.get("id")) for item in items]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(names):
        raise ValueError(f"the ranking {order} is not an order of the items {names}")
    places = {str(name): place for place, name in enumerate(order, start=1)}
    return [text(item, "body") for item in items], [places[name] for name in names]


_KINDS: dict[Any, Ranked] = {"ranker": _ranker, "pairwise": _pairwise}


def _annotator(annotation: Fields) -> str | None:
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    return None if person is None else str(person)
