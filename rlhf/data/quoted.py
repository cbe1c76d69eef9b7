"""Questions that stand in long texts, such as those that models are pre-trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from rlhf.data.dedup import near_duplicates, normalise
from rlhf.data.dedup.shingles import tokens
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import TextRecord

WORDS = 8
"""Words or ideographs from which a question stands in a text by no chance: the least that GPT-3's
data were searched by, fewer having met by chance (Brown et al. 2020, arXiv 2005.14165, app. C)."""
_CHARACTERS = 2**23  # of the texts that are in memory at a time


def quoted(
    texts: Iterable[TextRecord], questions: Sequence[str], threshold: float
) -> dict[int, str]:
    """The questions that stand in a text, by index, each with the id of one that it stands in.

    It stands there where the whole text is its near-duplicate, or where the text has it word for
    word, case, width and punctuation aside, if it has WORDS at least. Texts are streamed.

    Args:
        threshold: Jaccard index from which two texts are near-duplicates.
    """
    wordings: dict[tuple[str, ...], list[int]] = {}
    lengths: dict[tuple[str, ...], set[int]] = {}  # of the questions with this beginning
    for index, question in enumerate(questions):
        words = tuple(tokens(normalise(question)))
        if len(words) >= WORDS:
            wordings.setdefault(words, []).append(index)
            lengths.setdefault(words[:WORDS], set()).add(len(words))
    found: dict[int, str] = {}
    for batch in _batches(texts):
        for first, second, _ in near_duplicates(
            [each.text for each in batch], questions, threshold
        ):
            found.setdefault(second, batch[first].id)
        for text in batch:
            for words in _beginning_with(lengths, tokens(normalise(text.text))):
                for index in wordings.get(words, ()):
                    found.setdefault(index, text.id)
    return found


def check_quoted(path: str, questions: Sequence[str], threshold: float) -> None:
    """Refuses prompts to be tested on that stand in the text that PPO mixes in.

    Raises:
        ValueError: there is one; says how many, and shows one.
    """
    found = quoted(read_jsonl(path, TextRecord), questions, threshold)
    if found:
        index, text = min(found.items())
        shown = questions[index] if len(questions[index]) <= 40 else questions[index][:40] + "..."
        raise ValueError(
            f"{len(found)} of {len(questions)} held-out prompts stand in the text of "
            f"ppo.pretraining.data, {path}, such as {shown!r} in {text!r}; remove them, or set "
            "data.allow_leakage to true"
        )


def _batches(texts: Iterable[TextRecord]) -> Iterator[list[TextRecord]]:
    batch: list[TextRecord] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text.text)
        if length >= _CHARACTERS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _beginning_with(
    lengths: Mapping[tuple[str, ...], Collection[int]], words: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Wherever one of the beginnings stands among the words, as many from there as each length."""
    windows = zip(*(words[i:] for i in range(WORDS)), strict=False)
    for start, beginning in enumerate(windows):
        for length in lengths.get(beginning, ()):
            yield tuple(words[start : start + length])
