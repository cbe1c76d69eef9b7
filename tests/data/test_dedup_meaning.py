"""Deduplication by vectors: the index against comparing all pairs, and what the files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlhf.data.dedup import vectors as vectors_module
from rlhf.data.dedup.files import dedup_files
from rlhf.data.dedup.vectors import DocumentVectors


@pytest.fixture
def faiss() -> Any:
    return pytest.importorskip("faiss")


def unit(rows: Any) -> NDArray[np.float32]:
    array = np.asarray(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def planted(count: int) -> NDArray[np.float32]:
    """Random directions, then noisy copies of the first half, whose cosine is about 0.98."""
    random = np.random.default_rng(0)
    originals = unit(random.normal(size=(count, 32)))
    copies = originals[: count // 2] + 0.035 * random.normal(size=(count // 2, 32))
    return np.concatenate([originals, unit(copies)])


@pytest.mark.usefixtures("faiss")
def test_small_sets_are_compared_whole() -> None:
    from rlhf.data.dedup.dense import DenseIndex

    vectors = planted(200)
    cosines = vectors @ vectors.T
    index = DenseIndex(vectors)
    kept, dropped = index.deduplicate(0.9)
    assert kept == list(range(200))
    assert [pair[:2] for pair in dropped] == [(i, 200 + i) for i in range(100)]
    assert [pair.similarity for pair in dropped] == pytest.approx(
        [cosines[i, 200 + i] for i in range(100)], abs=1e-5
    )
    np.fill_diagonal(cosines, -1)
    highest = index.nearest(np.arange(300))
    assert highest == pytest.approx(cosines.max(axis=1).clip(min=0), abs=1e-5)
    # The two halves of each document are not each other's neighbours.
    owners = np.arange(300) % 200
    assert index.nearest(owners)[:100].max() < 0.9
    assert [others.tolist() for others, _ in index.near_each(vectors[200:203], 0.9)] == [
        [i, i + 200] for i in range(3)
    ]


@pytest.mark.usefixtures("faiss")
def test_clusters_part_few_pairs() -> None:
    from rlhf.data.dedup.dense import DenseIndex

    index = DenseIndex(planted(4000))
    assert index.clusters == 153  # 6000 vectors, 39 a cluster
    numbers = index.cluster_numbers()
    assert len(numbers) == 6000 and set(numbers) <= set(range(153))
    kept, dropped = index.deduplicate(0.9)
    assert {pair[:2] for pair in dropped} <= {(i, 4000 + i) for i in range(2000)}
    assert len(dropped) >= 1980
    assert sorted(kept + [pair.second for pair in dropped]) == list(range(6000))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in texts))
    return path


WORDS = "one two three four five six seven eight nine ten {}"


@pytest.mark.usefixtures("faiss")
def test_vectors_from_a_file_find_what_words_do_not(tmp_path: Path) -> None:
    texts = ["the cat sat", WORDS.format("x"), WORDS.format("y"), "a feline was seated", "else"]
    source = write(tmp_path / "a.jsonl", [*texts, " "])
    held_out = write(tmp_path / "b.jsonl", ["a tomcat took a seat", "nothing of it"])
    stored = np.array(
        [[5, 0, 0], [0, 1, 0], [0, 1, 1], [5, 0.5, 0], [0, 0, 1], [1, 0, 0], [1, 1, -1]]
    )
    np.save(tmp_path / "v.npy", stored)
    vectors = DocumentVectors(tmp_path / "v.npy", 0.95)
    report = dedup_files([source], tmp_path / "out", 0.7, [held_out], vectors)
    assert (report.documents, report.kept, report.rejected, report.leaked) == (5, 3, 1, 1)
    assert report.embeddings is not None and report.embeddings.dropped == 1
    words, meaning = rows(tmp_path / "out/dropped.jsonl")
    assert (words["kept"]["id"], words["measure"], words["similarity"]) == (
        texts[1],
        "jaccard",
        0.8,
    )
    assert (meaning["kept"]["id"], meaning["measure"]) == (texts[0], "cosine")
    assert meaning["similarity"] == pytest.approx(5 / 25.25**0.5, abs=1e-4)
    first, leak = rows(tmp_path / "out/leaked.jsonl")
    assert first["document"]["id"] == texts[0] and leak["document"]["id"] == texts[3]
    assert {first["id"], leak["id"]} == {"a tomcat took a seat"} and leak["measure"] == "cosine"
    scores = rows(tmp_path / "out/scores.jsonl")
    assert scores[4]["nearest"] == {"document": pytest.approx(0.5**0.5, abs=1e-4)}
    assert scores[0]["cluster"] == 0 and scores[0]["cluster_size"] == 5


class Letters:
    """In place of a model: counts of letters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return unit([[1e-3 + text.lower().count(letter) for letter in "abcd"] for text in texts])


@pytest.mark.usefixtures("faiss")
def test_a_model_scores_paragraphs_and_sentences_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_module, "Embedder", Letters)
    source = write(tmp_path / "a.jsonl", ["aa. bb.\ncc", "a!", "bd"])
    report = dedup_files([source], tmp_path / "out", 0.8, (), DocumentVectors(tmp_path, 0.95))
    assert report.kept == 3 and report.embeddings is not None
    first, second, third = (row["nearest"] for row in rows(tmp_path / "out/scores.jsonl"))
    # Sentences aa, bb, cc: their nearest elsewhere are a (1), bd (0.7), and none (0).
    assert first["sentences"] == pytest.approx((1 + 0.5**0.5) / 3, abs=2e-3)
    # Paragraphs "aa. bb." and cc: the nearest of the first is a or b d, 0.7 and 0.5.
    assert first["paragraphs"] == pytest.approx(0.5**0.5 / 2, abs=2e-3)
    assert second["sentences"] == pytest.approx(1, abs=1e-3)
    assert third["document"] == pytest.approx(2 / 12**0.5 / 2**0.5, abs=2e-3)


@pytest.mark.usefixtures("faiss")
def test_files_of_vectors_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    for wrong, reason in (
        (np.ones(3), r"float64 \(3,\) where floats \[N, D\]"),
        (np.ones((3, 2), int), "int64"),
    ):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=reason):
            DocumentVectors(path, 0.9)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be read"):
        DocumentVectors(path, 0.9)
    source = write(tmp_path / "a.jsonl", ["one", "two"])
    for stored, reason in ((np.ones((3, 2)), "3 vectors for 2"), (np.zeros((2, 2)), "is zero")):
        np.save(path, stored)
        with pytest.raises(ValueError, match=reason):
            dedup_files([source], tmp_path / "out", 0.8, (), DocumentVectors(path, 0.9))


def test_what_is_missing_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'baichuan-rlhf\[embeddings\]'"):
        DocumentVectors(tmp_path / "v.npy", 0.9)
