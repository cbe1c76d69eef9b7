from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf.data.datasets import pair_dataset, ranking_dataset, sft_dataset, shorten
from rlhf.data.provenance import keep_responses
from rlhf.data.records import PairGrade, RankingRecord, SFTRecord
from rlhf.models.baichuan.tokenization import BaichuanTokenizer
from tests.checkpoints import train_tokenizer

from .stand_ins import ASSISTANT, EOS, TOKENIZER, USER, V2

A, B, Q = ord("A"), ord("B"), ord("Q")
SOURCE = {"family": "baichuan", "model": "m", "size": "7b", "stage": "sft"}


def demonstration(identity: str, question: str, answer: str) -> SFTRecord:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return SFTRecord.model_validate({"id": identity, "messages": messages, "source": "s"})


def ranking(texts: list[str], ranks: list[int], **changes: Any) -> RankingRecord:
    responses = [{"id": str(i), "text": t, "provenance": SOURCE} for i, t in enumerate(texts)]
    prompt = {"id": "p", "messages": [{"role": "user", "content": "Q"}]}
    fields = {"id": "r", "prompt": prompt, "responses": responses, "ranks": ranks}
    return RankingRecord.model_validate(fields | changes)


def test_sft_rows_and_a_prompt_that_leaves_no_room() -> None:
    records = [demonstration("a", "Q", "AB"), demonstration("b", "QQQQ", "A")]
    rows = sft_dataset(iter(records), V2, TOKENIZER, max_length=5)
    assert rows.column_names == ["input_ids", "labels"]
    assert rows.to_list() == [
        {"input_ids": [USER, Q, ASSISTANT, A, B], "labels": [-100, -100, -100, A, B]}
    ]


def test_sft_streams_more_than_one_arrow_batch() -> None:
    rows = sft_dataset((demonstration(str(i), "Q", "A") for i in range(1500)), V2, TOKENIZER, 9)
    assert len(rows) == 1500
    assert rows[1499]["input_ids"] == [USER, Q, ASSISTANT, A, EOS]


def test_sft_with_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(ValueError, match="raise max_length"):
        sft_dataset([demonstration("a", "QQQQ", "A")], V2, TOKENIZER, max_length=5)


def test_questions_and_answers_are_cut_before_the_whole() -> None:
    rows = sft_dataset([demonstration("a", "QQQQ", "ABBB")], V2, TOKENIZER, 99, 2, 1)
    assert rows[0]["input_ids"] == [USER, Q, Q, ASSISTANT, A, EOS]
    rows = sft_dataset([demonstration("a", "QQQQ", "ABBB")], V2, TOKENIZER, 5, 2, 1)
    assert rows[0]["input_ids"] == [USER, Q, Q, ASSISTANT, A]


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_a_shortened_text_is_the_first_tokens(tmp_path: Path, dummy_prefix: bool) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_tokenizer(dummy_prefix))
    tokenizer = BaichuanTokenizer(str(tmp_path / "tokenizer.model"))
    for text in ("你好，世界。Hello world! 今天 42 天", "\U0001f642" * 3, "  two  spaces"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert shorten(tokenizer, text, len(ids)) == text
        for most in range(1, len(ids)):
            short = shorten(tokenizer, text, most)
            again = tokenizer.encode(short, add_special_tokens=False)
            assert text.startswith(short) and again == ids[: len(again)]
            # The bytes of a broken character at the end go, and version 1's prefix of nothing.
            assert most - 5 < len(again) <= most


def test_ranking_items_are_prompt_and_response() -> None:
    data = ranking_dataset([ranking(["A", "B"], [2, 1])], V2, TOKENIZER, max_length=5)
    assert len(data) == 1 and data[0].ranks == (2, 1) and data[0].kept == (0, 1)
    assert data[0].input_ids == ((USER, Q, ASSISTANT, A, EOS), (USER, Q, ASSISTANT, B, EOS))


def test_a_response_stopped_at_its_length_has_no_eos() -> None:
    record = ranking(["A", "B"], [1, 2])
    stopped = record.responses[0].model_copy(update={"stop_reason": "length"})
    record = record.model_copy(update={"responses": (stopped, record.responses[1])})
    data = ranking_dataset([record], V2, TOKENIZER, max_length=5)
    assert data[0].input_ids == ((USER, Q, ASSISTANT, A), (USER, Q, ASSISTANT, B, EOS))


def test_a_pair_across_a_dropped_response_stays_derived() -> None:
    record = ranking(["A", "BB", "B"], [1, 2, 3], grades=[2, 1])
    (item,) = ranking_dataset([record], V2, TOKENIZER, max_length=5)
    assert item.pairs == [PairGrade(chosen=0, rejected=1, grade=3, derived=True)]


def test_pairs_are_those_of_the_rankings_without_the_prompt() -> None:
    data = ranking_dataset([ranking(["A", "B", "A"], [2, 1, 2])], V2, TOKENIZER, max_length=5)
    pair = {"prompt_ids": [USER, Q, ASSISTANT], "chosen_ids": [B, EOS], "rejected_ids": [A, EOS]}
    assert pair_dataset(data, V2, TOKENIZER).to_list() == [pair, pair]


def test_what_is_left_out_is_counted() -> None:
    records = [
        ranking(["A", "BB", "B"], [1, 2, 3]),  # BB is too long; the other two stay
        ranking(["A", "BB"], [1, 2]),  # one left
        ranking(["A", "B"], [1, 1]),  # all tied
        ranking(["A", "BB", "B"], [1, 2, 1]),  # tied once BB is gone
    ]
    data = ranking_dataset(records, V2, TOKENIZER, max_length=5)
    assert (data.responses_too_long, data.records_too_few, data.records_all_tied) == (3, 1, 2)
    assert [(item.kept, item.ranks) for item in data] == [((0, 2), (1, 3))]


def test_what_two_filters_left_is_graded_as_in_the_whole_ranking() -> None:
    """The second response is off the family, the third too long: 1 + 2 and 1 + 2 + 2."""
    whole = ranking(["A", "B", "AA", "B"], [1, 2, 3, 4], grades=[1, 2, 2])
    (item,) = ranking_dataset([keep_responses(whole, [0, 2, 3])], V2, TOKENIZER, max_length=5)
    assert item.pairs == [PairGrade(0, 1, 5, derived=True)]
    (item,) = ranking_dataset([keep_responses(whole, [0, 2, 3])], V2, TOKENIZER, max_length=6)
    assert item.pairs == [
        PairGrade(0, 1, 3, derived=True),
        PairGrade(0, 2, 5, derived=True),
        PairGrade(1, 2, 2, derived=False),
    ]
