from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlhf.apps.doctor import checkpoint as model
from rlhf.runtime.manifest import MANIFEST, Artifact, StageManifest, outputs_of
from rlhf.runtime.run_dir import RunDir


def faults(directory: Path) -> list[str]:
    return [f"{one.subject}: {one.message}" for one in model.check(directory) if one.level != "ok"]


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-13b"])
def test_whole(checkpoint, architecture):
    findings = list(model.check(checkpoint(architecture), architecture))
    assert [(one.level, one.subject) for one in findings] == [
        ("ok", "model"),
        ("ok", "hashes"),
        ("ok", "tokenizer"),
    ]
    assert f"{architecture}, 1 file of weights" in findings[0].message


def test_another_architecture_than_the_config_says(checkpoint):
    only = list(model.check(checkpoint("baichuan-7b"), "baichuan2-7b"))
    assert [one.level for one in only] == ["fault"]
    assert "this is a baichuan-7b checkpoint" in only[0].message


def test_an_index_that_is_not_of_these_shards(checkpoint):
    path = checkpoint()
    (path / "model.safetensors").unlink()
    for number in (1, 2):
        save_file({f"tensor.{number}": torch.ones(1)}, path / f"shard-{number}.safetensors")
    index = {"tensor.1": "shard-1.safetensors", "tensor.2": "shard-1.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert faults(path)[0].startswith(f"model: {path}/shard-1.safetensors: tensor.2 is not in it")


def test_what_the_hub_has_noted_down(checkpoint):
    path = checkpoint()
    note = path / model.PUBLISHED / "model.safetensors.metadata"
    note.parent.mkdir(parents=True)
    hash = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    note.write_text(f"commit\n{hash}\n1700000000.0\n")
    assert "1 of 1 files as published" in list(model.check(path))[1].message
    note.write_text(f"commit\n{'0' * 64}\n1700000000.0\n")
    weights = path / "model.safetensors"
    assert faults(path) == [f"hashes: {weights}: not as it was published; download it again"]


def test_a_flipped_bit_in_a_bin(checkpoint):
    path = checkpoint("baichuan-7b")
    weights = path / "pytorch_model.bin"
    with zipfile.ZipFile(weights) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(weights.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    weights.write_bytes(content)
    assert faults(path)[0].startswith(f"hashes: {weights}: damaged (")


def test_what_a_stage_has_made_and_somebody_has_changed(checkpoint, tmp_path):
    run, stage = RunDir(tmp_path), tmp_path / "ppo"
    actor = checkpoint(name="ppo").rename(tmp_path / "actor")
    stage.mkdir()
    actor = actor.rename(stage / "actor")
    manifest = StageManifest(
        stage="ppo",
        status="done",
        config_hash="",
        inputs={},
        outputs=outputs_of(stage) | {"critic": Artifact(path="", hash="gone, but not looked at")},
        versions={},
        started="2026-01-01T00:00:00+00:00",
    )
    run.record(stage, manifest)
    assert faults(actor) == []
    (actor / "generation_config.json").write_text("{}")
    assert faults(actor) == [
        f"hashes: {actor}: not as it was made; restore it, or make it again with --redo ppo"
    ]


def test_what_rlhf_export_has_made_and_somebody_has_removed(checkpoint, tmp_path):
    exported = checkpoint(name="exported").rename(tmp_path / "exported")
    gone = exported / "generation_config.json"
    gone.write_text("{}")
    manifest = StageManifest(
        stage="export",
        status="done",
        config_hash="",
        inputs={},
        outputs=outputs_of(exported),
        versions={},
        started="2026-01-01T00:00:00+00:00",
    )
    (exported / MANIFEST).write_text(manifest.model_dump_json())
    assert faults(exported) == []
    gone.unlink()
    assert faults(exported) == [
        f"hashes: {gone}: missing; restore it, or make it again with rlhf export"
    ]


def test_a_tokenizer_that_loses_text(checkpoint, monkeypatch):
    path = checkpoint()
    tokenizer = model.load_tokenizer(path)
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **_: "Hello")
    monkeypatch.setattr(model, "load_tokenizer", lambda _: tokenizer)
    assert faults(path)[0].startswith(f"tokenizer: {path}: its tokenizer turns '你好")
