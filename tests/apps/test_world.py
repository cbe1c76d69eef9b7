"""What a user has to bring, by the stages that will run."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import torch

from rlhf.apps import world
from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import Config, DataSection
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, PromptRecord, RankingRecord, SFTRecord, TextRecord
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_reward_model, load_tokenizer


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """configs/baichuan2_7b.yaml with every path under tmp_path, where nothing is yet."""
    paths = {
        "output_dir": tmp_path / "runs",
        "models.main.path": tmp_path / "base",
        "data.sft": tmp_path / "sft.jsonl",
        "data.prompts": tmp_path / "prompts.jsonl",
    }
    return load_config("baichuan2_7b", [f"{key}={path}" for key, path in paths.items()])


def data_of(config: Config, *stages: str) -> set[str]:
    with world.prepared_run(config, stages=stages) as (_, run_dir):
        return {path.name for path in run_dir.data.glob("*.jsonl")}


def test_what_other_stages_read_need_not_be_there(config, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"not there: {tmp_path}/base, {tmp_path}/sft.jsonl; "):
        data_of(config, "sft")
    with pytest.raises(ValueError, match=r"Baichuan2-7B-Chat, .*, \S*sft.jsonl, \S*prompts.jsonl;"):
        data_of(config, "sft", "collect")
    for name in ("check_checkpoint", "check_kind"):
        monkeypatch.setattr(world, name, lambda *_: None)
    (tmp_path / "base").mkdir()
    questions = [(Message(role="user", content=f"question {n}: {n * n}"),) for n in range(100)]
    answer = Message(role="assistant", content="yes")
    records = [
        SFTRecord(id=str(n), messages=(*asked, answer), source="test")
        for n, asked in enumerate(questions)
    ]
    write_jsonl(tmp_path / "sft.jsonl", records)
    assert data_of(config, "sft") == {"sft.jsonl", "sft_eval.jsonl"}
    prompts = [PromptRecord(id=str(n), messages=asked) for n, asked in enumerate(questions)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    both = {"sft.jsonl", "sft_eval.jsonl", "prompts.jsonl", "prompts_eval.jsonl"}
    assert data_of(config, "sft") == both
    # A kind that was there once is missed: without it the others would be split differently.
    (tmp_path / "prompts.jsonl").unlink()
    with pytest.raises(ValueError, match="not there: .*prompts.jsonl;"):
        data_of(config, "sft")


def test_text_that_ppo_mixes_in_is_searched_where_it_is_there(tmp_path, monkeypatch):
    for name in ("check_checkpoint", "check_kind"):
        monkeypatch.setattr(world, name, lambda *_: None)
    (tmp_path / "base").mkdir()
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("prompts", "prompts_eval", "texts")}
    config = load_config(
        "baichuan2_7b",
        [
            f"output_dir={tmp_path / 'runs'}",
            f"models.main.path={tmp_path / 'base'}",
            "data.sft=null",
            *(f"data.{name}={paths[name]}" for name in ("prompts", "prompts_eval")),
            f"ppo.pretraining={{data: {paths['texts']}}}",
        ],
    )
    asked = [f"Please tell me in a few words what {n} times {n} is." for n in range(9)]
    prompts = [
        PromptRecord(id=str(n), messages=(Message(role="user", content=question),))
        for n, question in enumerate(asked)
    ]
    write_jsonl(paths["prompts"], prompts[:7])
    write_jsonl(paths["prompts_eval"], prompts[7:])
    assert data_of(config, "rm") == {"prompts.jsonl", "prompts_eval.jsonl"}
    with pytest.raises(ValueError, match=r"not there: .*texts\.jsonl;"):
        data_of(config, "ppo")
    write_jsonl(paths["texts"], [TextRecord(id="t", text=f"He began. {asked[8]} I do not know.")])
    with pytest.raises(ValueError, match=r"1 of 2 held-out prompts stand in .*texts\.jsonl"):
        data_of(config, "rm")
    write_jsonl(paths["texts"], [TextRecord(id="t", text="He began. Nobody knows.")])
    assert data_of(config, "rm") == {"prompts.jsonl", "prompts_eval.jsonl"}


def test_the_run_says_what_can_not_be_held_out(config, tmp_path, monkeypatch, capsys):
    for name in ("check_checkpoint", "check_kind"):
        monkeypatch.setattr(world, name, lambda *_: None)
    (tmp_path / "base").mkdir()
    asked = ["translate the sentence that follows into good French for a child of"] * 30
    asked += [f"{n} {n}a {n}b" for n in range(30)]
    records = [
        SFTRecord(
            id=str(n),
            messages=(Message(role="user", content=text), Message(role="assistant", content="yes")),
            source="test",
        )
        for n, text in enumerate(asked)
    ]
    write_jsonl(tmp_path / "sft.jsonl", records)
    data_of(config, "sft")
    shown = " ".join(capsys.readouterr().out.split())
    assert "30 of 60 questions (50%) lie in groups of near-duplicates too large to hold" in shown
    data_of(config, "sft")  # prepared before
    assert capsys.readouterr().out == ""


def test_a_model_of_the_other_kind_is_told_before_the_first_stage(checkpoint, config, tmp_path):
    """Each key by itself: what speaks, and what scores."""
    speaks, scores = checkpoint(name="speaks"), tmp_path / "scores"
    model = load_reward_model(speaks, dtype=torch.float32, device="cpu")
    save_reward_model(model, load_tokenizer(speaks), scores, score_mean=None, score_std=None)
    good = {"models.main.path": speaks, "ppo.actor": speaks, "evaluate.judge": scores}
    bad = {"models.main.path": scores, "ppo.actor": scores, "evaluate.judge": speaks}
    for key, path in bad.items():
        values = config.model_copy(update={"data": DataSection()}).model_dump()
        values["collect"]["models"] = []
        for name, chosen in (good | {key: path}).items():
            *above, last = name.split(".")
            reduce(getitem, above, values)[last] = str(chosen)
        found, wanted = "language model", "reward model"
        if key != "evaluate.judge":
            found, wanted = wanted, found
        with pytest.raises(ValueError) as error:
            world.located(Config.model_validate(values))
        told = f"{path}: this is a {found}, and a {wanted} is needed; name one"
        assert str(error.value) == told


def test_what_a_killed_process_left_goes_when_a_run_starts(config, monkeypatch):
    monkeypatch.setattr("rlhf.runtime.files.LEFT", -1.0)
    for name in ("_check_named_files", "prepare"):
        monkeypatch.setattr(world, name, lambda *_: None)
    draft = config.run_dir / "rm" / ".manifest.json.4711"
    draft.parent.mkdir(parents=True)
    draft.write_text("half")
    data_of(config, "rm")
    assert not draft.exists()


def test_the_run_keeps_the_taxonomy_that_it_used(config, tmp_path, monkeypatch):
    for name in ("check_checkpoint", "check_kind"):
        monkeypatch.setattr(world, name, lambda *_: None)
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    own, kept = Path("own.yaml"), config.run_dir / "data/taxonomy.yaml"
    shipped = resource("data_schemas/taxonomy.yaml").read_text(encoding="utf-8")
    named = config.model_copy(update={"data": DataSection(taxonomy=str(own))})
    own.write_text("categories: []", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^own.yaml: categories: has 0 items where at least 1"):
        data_of(named, "rm")
    assert not kept.exists()
    own.write_text(shipped, encoding="utf-8")
    data_of(named, "rm")
    assert kept.read_text(encoding="utf-8") == shipped
    data_of(config.model_copy(update={"data": DataSection()}), "rm")
    assert not kept.exists()


def test_held_out_rankings_are_read_before_the_first_stage(config, tmp_path, monkeypatch):
    for name in ("check_checkpoint", "check_kind"):
        monkeypatch.setattr(world, name, lambda *_: None)
    (tmp_path / "base").mkdir()
    files = [tmp_path / name for name in ("helpful.jsonl", "harmless.jsonl")]
    held_out = config.rm.data.model_copy(update={"held_out": tuple(map(str, files))})
    rm = config.rm.model_copy(update={"data": held_out})
    config = config.model_copy(update={"rm": rm, "data": DataSection()})
    with pytest.raises(ValueError, match=r"not there: .*/helpful.jsonl, .*/harmless.jsonl;"):
        data_of(config, "rm")
    provenance = {"family": "baichuan", "model": "x", "size": "7b", "stage": "sft"}
    ranking = {
        "id": "test.jsonl:1",
        "prompt": {"id": "p", "messages": [{"role": "user", "content": "q"}]},
        "responses": [{"id": n, "text": n, "provenance": provenance} for n in "ab"],
        "ranks": [1, 2],
    }
    for file in files:
        write_jsonl(file, [RankingRecord.model_validate(ranking)])
    with pytest.raises(ValueError, match=r"harmless.jsonl:1: id .* is in \S*helpful.jsonl too"):
        data_of(config, "rm")
    other = ranking | {"id": "other"}
    for response in other["responses"]:
        response["provenance"] = provenance | {"family": "unknown"}
    write_jsonl(files[1], [RankingRecord.model_validate(other)])
    with pytest.raises(ValueError, match=r"families \['baichuan'\]: 2 from unknown/x; remove them"):
        data_of(config, "rm")
