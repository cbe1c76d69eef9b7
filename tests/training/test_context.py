"""What a model reads bounds what it learns from, whatever the config allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, RankingRecord, SFTRecord
from rlhf.models.load import load_tokenizer
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.steps import Step
from rlhf.training import fine_tune
from rlhf.training.rankings import HELD_OUT, TRAIN, read_preferences

CONTEXT = 48
LONG = "1" * 60


def step(config: Config, model: Path, folder: Path, names: tuple[str, ...]) -> Step:
    folder.mkdir()
    inputs = {"model": model} | {name: folder / f"{name}.jsonl" for name in names}
    return Step("key", "stage", folder, (), inputs, lambda step: {})


def runtime(config: Config) -> Any:
    return SimpleNamespace(
        run_dir=RunDir(config.run_dir),
        round=1,
        rounds=1,
        main_process=True,
        seed=0,
        console=Console(quiet=True),
    )


def ranking(id: str, texts: Sequence[str]) -> dict[str, Any]:
    provenance = {"family": "baichuan", "model": "x", "size": "7b", "stage": "sft"}
    return {
        "id": id,
        "prompt": {"id": "1", "messages": [{"role": "user", "content": "a"}]},
        "responses": [
            {"id": str(n), "text": text, "provenance": provenance} for n, text in enumerate(texts)
        ],
        "ranks": list(range(1, len(texts) + 1)),
    }


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("baichuan-13b", model_max_length=CONTEXT)


def test_a_demonstration_is_cut_where_the_model_ends(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained: list[list[int]] = []

    def train_sft(model: Any, tokenizer: Any, train: Any, *args: Any, **options: Any) -> Any:
        trained.extend(train["input_ids"])
        raise InterruptedError

    monkeypatch.setattr(fine_tune, "load_to_train", lambda *args: None)
    monkeypatch.setattr(fine_tune, "train_sft", train_sft)
    for limit, expected in [(2048, CONTEXT), (20, 20)]:
        config = load_config("tiny", [f"sft.max_length={limit}", f"output_dir={tmp_path}"])
        work = step(config, model, tmp_path / str(limit), ("train", "held_out"))
        talk = (Message(role="user", content="a"), Message(role="assistant", content=LONG))
        for name in ("train", "held_out"):
            write_jsonl(work.inputs[name], [SFTRecord(id="1", messages=talk, source="test")])
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(InterruptedError):
            fine_tune.fine_tune(work, config, runtime(config))
        assert len(trained.pop()) == expected
        told = [record.getMessage() for record in caplog.records if "max_length" in record.msg]
        assert len(told) == (limit > CONTEXT)
        assert all(f"sft.max_length = 2048: the model reads {CONTEXT}" in line for line in told)


def test_a_response_longer_than_the_model_reads_is_dropped(model: Path, tmp_path: Path) -> None:
    config = load_config("tiny", ["rm.data.off_family=allow", f"output_dir={tmp_path}"])
    assert config.rm.data.max_length > CONTEXT
    work = step(config, model, tmp_path / "rm", (TRAIN, HELD_OUT))
    record = RankingRecord.model_validate(ranking("1", ("a", "b", LONG)))
    for name in (TRAIN, HELD_OUT):
        write_jsonl(work.inputs[name], [record])
    found = read_preferences(work, load_tokenizer(model), config, runtime(config))
    assert found.counts["responses_too_long"] == found.counts["held_out_responses_too_long"] == 1
    assert [len(item.kept) for item in found.train.items] == [2]


def test_two_files_of_a_split_with_equal_ids_are_told_before_training(
    model: Path, tmp_path: Path
) -> None:
    config = load_config("tiny", ["rm.data.off_family=allow", f"output_dir={tmp_path}"])
    work = step(config, model, tmp_path / "rm", (TRAIN, f"{HELD_OUT} 1", f"{HELD_OUT} 2"))
    record = RankingRecord.model_validate(ranking("test.jsonl:1", "ab"))
    for name in (TRAIN, f"{HELD_OUT} 1", f"{HELD_OUT} 2"):
        write_jsonl(work.inputs[name], [record])
    told = (
        r"held out 2\.jsonl:1: id 'test\.jsonl:1' is in \S.*held out 1\.jsonl too; ids are unique"
    )
    with pytest.raises(ValueError, match=told):
        read_preferences(work, load_tokenizer(model), config, runtime(config))
