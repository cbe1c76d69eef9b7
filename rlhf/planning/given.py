"""The user's own rankings, counted for what a reward model and DPO will learn from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rlhf.data.jsonl import read_jsonl
from rlhf.data.provenance import family_filter
from rlhf.data.records import RankingRecord, pair_grades
from rlhf.planning.setting import Setting


class Given(NamedTuple):
    """Rankings to learn from that make a pair, their responses, and the pairs."""

    records: int
    responses: int
    pairs: int


def given(setting: Setting) -> Given | None:
    """Of `data.rankings`, without what is held out of it; None where it is not there or not read.

    How long responses are is not known without a tokenizer: none counts as too long.
    """
    config = setting.config
    path = Path(config.data.rankings or "")
    if config.annotation.source != "file" or not path.is_file():
        return None
    only = setting.main.family if config.rm.data.off_family == "drop" else None
    state = path.stat()
    found, total = _counted(path, state.st_mtime_ns, state.st_size, only)
    if config.data.rankings_eval:
        return found
    held_out = max(1, round(config.data.held_out * total))  # as rlhf.data.split has it
    return Given(*(round(count * (1 - held_out / total)) for count in found))


@lru_cache(maxsize=1)  # the options that would fit are planned one by one
def _counted(path: Path, changed: int, size: int, only: str | None) -> tuple[Given, int]:
    """changed, size: of the file, which is read again when it has others. only: the one family that
    is kept. Also says how many records the file has."""
    records = list(read_jsonl(path, RankingRecord))
    kept = family_filter(records, "drop", {only})[0] if only else records
    pairs = [(len(each.responses), len(pair_grades(each.ranks, ()))) for each in kept]
    useful = [(responses, count) for responses, count in pairs if count]
    sums = (sum(each[column] for each in useful) for column in (0, 1))
    return Given(len(useful), *sums), len(records)
