from __future__ import annotations

from rlhf.data.datasets import RankingDataset
from rlhf.training.rankings import Preferences


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
