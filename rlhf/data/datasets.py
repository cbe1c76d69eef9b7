"""Training sets of token ids: demonstrations for SFT, ranked responses for the reward model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import datasets
from torch.utils.data import Dataset

from rlhf.data.chat_format import IGNORED, encode_conversation, encode_prompt, encode_response
from rlhf.data.records import PairGrade, RankingRecord, Response, SFTRecord, pair_grades

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.models.spec import ModelSpec

_IDS = datasets.List(datasets.Value("int32"))
_FEATURES = datasets.Features({"input_ids": _IDS, "labels": _IDS})
_PAIR_FEATURES = datasets.Features({"prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS})
_ROWS_A_TABLE = 1024


@dataclass(frozen=True)
class RankingItem:
    """One ranking as token ids.

    record: where it comes from. kept: [K] indices of the responses that fit, in the record's order.
    input_ids: [K] sequences, prompt and response. ranks: [K], as in the record, so with holes where
    a response was dropped.
    """

    record: RankingRecord
    kept: tuple[int, ...]
    input_ids: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]

    @property
    def pairs(self) -> list[PairGrade]:
        """Pairs of the kept responses, by their position here. Grades come from the whole record:
        a pair across a dropped response stays derived."""
        place = {index: position for position, index in enumerate(self.kept)}
        return [
            pair._replace(chosen=place[pair.chosen], rejected=place[pair.rejected])
            for pair in pair_grades(self.record.ranks, self.record.grades)
            if pair.chosen in place and pair.rejected in place
        ]


@dataclass(frozen=True)
class RankingDataset(Dataset[RankingItem]):
    """Rankings to learn from, and what was left out."""

    items: tuple[RankingItem, ...]
    responses_too_long: int
    records_too_few: int
    records_all_tied: int

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> RankingItem:
        return self.items[index]


def sft_dataset(
    records: Iterable[SFTRecord],
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> datasets.Dataset:
    """Demonstrations as an Arrow table of input_ids and labels, cut to max_length on the right.

    A conversation whose first question fills max_length teaches nothing and is left out.

    Args:
        max_source_length, max_target_length: the most tokens of each question and of each answer,
            whose text is cut on the right before; None for no limit.

    Raises:
        ValueError: none is left.
    """
    most = {"user": max_source_length, "assistant": max_target_length}
    tables = list(_tables(_shortened(records, tokenizer, most), spec, tokenizer, max_length))
    if not tables:
        raise ValueError(
            f"no demonstration has an answer within {max_length} tokens; raise max_length"
        )
    return datasets.concatenate_datasets(tables)


def ranking_dataset(
    records: Iterable[RankingRecord],
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> RankingDataset:
    """Rankings as token ids.

    A response that does not fit into max_length with its prompt is dropped, never cut: its end,
    where the score is read, would be missing. Records with fewer than two responses left, or with
    all tied, make no pair and are dropped. Text is encoded anew, since token ids belong to the
    tokenizer of the model that sampled them.
    """
    items: list[RankingItem] = []
    too_long = too_few = all_tied = 0
    for record in records:
        prompt = encode_prompt(spec, tokenizer, record.prompt.messages)
        sequences = [(*prompt, *_response_ids(spec, tokenizer, each)) for each in record.responses]
        kept = tuple(i for i, ids in enumerate(sequences) if len(ids) <= max_length)
        ranks = tuple(record.ranks[i] for i in kept)
        too_long += len(sequences) - len(kept)
        if len(kept) < 2:
            too_few += 1
        elif len(set(ranks)) == 1:
            all_tied += 1
        else:
            items.append(RankingItem(record, kept, tuple(sequences[i] for i in kept), ranks))
    return RankingDataset(tuple(items), too_long, too_few, all_tied)


def pair_dataset(
    rankings: RankingDataset, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase
) -> datasets.Dataset:
    """Every pair of every ranking, as an Arrow table of prompt_ids, chosen_ids and rejected_ids.

    spec, tokenizer: those that encoded the rankings.
    """
    rows = []
    for item in rankings.items:
        prompt = encode_prompt(spec, tokenizer, item.record.prompt.messages)
        responses = [list(ids[len(prompt) :]) for ids in item.input_ids]
        rows += [
            {
                "prompt_ids": prompt,
                "chosen_ids": responses[pair.chosen],
                "rejected_ids": responses[pair.rejected],
            }
            for pair in item.pairs
        ]
    return datasets.Dataset.from_list(rows, features=_PAIR_FEATURES)


def _response_ids(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, response: Response
) -> list[int]:
    ended = response.stop_reason != "length"
    return encode_response(spec, tokenizer, response.text, ended)


def _shortened(
    records: Iterable[SFTRecord],
    tokenizer: PreTrainedTokenizerBase,
    most: Mapping[str, int | None],
) -> Iterator[SFTRecord]:
    for record in records:
        messages = [
            each.model_copy(
                update={"content": shorten(tokenizer, each.content, most.get(each.role))}
            )
            for each in record.messages
        ]
        yield record.model_copy(update={"messages": tuple(messages)})


def shorten(tokenizer: PreTrainedTokenizerBase, text: str, most: int | None) -> str:
    """The beginning of a text that is this many tokens long, by whole characters.

    BPE gives a beginning that ends between two tokens the same tokens again.
    """
    if most is None:
        return text
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    if len(ids) <= most:
        return text
    return str(tokenizer.decode(ids[:most])).rstrip("\N{REPLACEMENT CHARACTER}")


def _tables(
    records: Iterable[SFTRecord],
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Iterator[datasets.Dataset]:
    encoded = (encode_conversation(spec, tokenizer, each.messages, max_length) for each in records)
    useful = (each for each in encoded if any(label != IGNORED for label in each.labels))
    while rows := list(islice(useful, _ROWS_A_TABLE)):
        yield datasets.Dataset.from_list([row._asdict() for row in rows], features=_FEATURES)
