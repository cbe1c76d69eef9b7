from __future__ import annotations

from pathlib import Path

from rlhf.config.load import load_config
from rlhf.data.datasets import RankingDataset
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import RankingRecord
from rlhf.training.rankings import Preferences, check_given


def test_what_either_split_lost_is_counted() -> None:
    preferences = Preferences(RankingDataset((), 1, 2, 3), RankingDataset((), 4, 5, 6), 7, 8)
    assert preferences.counts == {
        "simulated_rankings": 0,
        "responses_too_long": 1,
        "records_too_few": 2,
        "records_all_tied": 3,
        "responses_off_family": 7,
        "held_out_responses_too_long": 4,
        "held_out_records_too_few": 5,
        "held_out_records_all_tied": 6,
        "held_out_responses_off_family": 8,
    }


def write(file: Path, *families: str) -> Path:
    """A ranking of two responses of each family."""
    rows = [
        {
            "id": family,
            "prompt": {"id": "p", "messages": [{"role": "user", "content": "q"}]},
            "responses": [
                {
                    "id": text,
                    "text": text,
                    "provenance": dict.fromkeys(("family", "model", "size"), family)
                    | {"stage": "unknown"},
                }
                for text in "ab"
            ],
            "ranks": [1, 2],
        }
        for family in families
    ]
    write_jsonl(file, map(RankingRecord.model_validate, rows))
    return file


def test_the_users_own_rankings_are_looked_at_beforehand(tmp_path: Path) -> None:
    own, tested = write(tmp_path / "own", "unknown", "moss"), write(tmp_path / "tested", "moss")
    base = ["annotation.source=file", f"data.rankings={own}"]

    def told(*overrides: str, stages: tuple[str, ...] = ("sft", "collect", "rm")) -> str:
        try:
            check_given(load_config("tiny", [*base, *overrides]), stages)
        except ValueError as error:
            return str(error).removeprefix("responses from outside the families ")
        return ""

    none = "remove them, or set rm.data.off_family to allow, for drop leaves no ranking"
    both = f"['baichuan']: 2 from unknown/unknown, 2 from moss/moss; {none}"
    assert told() == told(stages=("collect", "dpo", "rm")) == both
    assert told("dpo={}", stages=("collect", "dpo")) == both
    assert told("models.main.architecture=moss-moon-003").endswith(
        "['moss']: 2 from unknown/unknown; remove them, or set rm.data.off_family to drop or allow"
    )
    # Not what no stage reads, what was collected before, nor what is allowed or not there yet.
    assert told(stages=("sft", "collect", "ppo")) == told(stages=("rm",)) == ""
    assert told("rm.data.off_family=allow") == told(f"data.rankings={tmp_path / 'none'}") == ""
    write(own, "baichuan")
    off = f"['baichuan']: 2 from moss/moss; {none}"
    assert told() == "" and told(f"data.rankings_eval={tested}") == off
    held_out = f"rm.data.held_out=[{tested}]"
    assert told(held_out) == told(held_out, stages=("rm",)) == off
    assert told(held_out, "annotation.source=page") == off
    assert told(f"rm.data.held_out=[{own}]", f"data.rankings_eval={tested}") == ""
