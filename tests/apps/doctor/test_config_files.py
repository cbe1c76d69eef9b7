from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from rlhf.apps.doctor import config_files, disk, machine
from rlhf.cli import app
from rlhf.config.capabilities import CapabilitySection
from rlhf.config.load import load_config
from rlhf.data.records import RankingRecord, write_jsonl
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_reward_model, load_tokenizer

N = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * 125_696 * 4096


def needed(*overrides: str) -> float:
    return disk.needed(load_config("baichuan2_7b", overrides))


def test_disk_by_hand():
    assert abs(N / 7.506e9 - 1) < 0.001  # Baichuan2-7B without its norms
    full = ["stages=[sft]", "sft.tuning={method: full}"]
    assert needed(*full) == 2 * N + 3 * 12 * N  # the model, three checkpoints with AdamW's moments
    assert needed(*full, "runtime.precision=float32") == 4 * N + 3 * 12 * N
    assert needed(*full, "sft.optimiser.kind=adamw-8bit") == 2 * N + 3 * 6 * N
    assert needed("stages=[sft]") == pytest.approx(2 * N + 3 * 0.12 * N)
    # Two rounds of actor, critic and adapter of the reward model; two learners' four checkpoints.
    rounds = needed("stages=[rm, ppo]", "rounds=2", "ppo.ema_decay=null")
    assert rounds == pytest.approx(2 * (0.02 * N + 4 * N) + 4 * 0.24 * N)


def test_a_full_disk(monkeypatch):
    config = load_config("baichuan2_7b")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: type("", (), {"free": 2**30}))
    with pytest.raises(ValueError, match=r"will take about 48\.\d GiB, 1 are free; free some, or"):
        disk.check(config)
    assert disk.needed(load_config("tiny")) == 0


def test_doctor_of_a_config(checkpoint, tmp_path, monkeypatch):
    """One line a check; what is wrong with the files makes exit code 2, and mending them 0."""
    monkeypatch.setattr(machine, "_import_error", lambda package: None)  # has a test of its own
    values = {
        "name": "mine",
        "output_dir": str(tmp_path / "runs"),
        "stages": ["sft"],
        "models": {
            "main": {"path": str(checkpoint()), "architecture": "baichuan2-7b", "size": "7b"}
        },
        "data": {"sft": str(tmp_path / "sft.jsonl"), "taxonomy": str(tmp_path / "none.yaml")},
    }
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(values))
    record = '{"id": "a", "source": "me", "messages": [{"role": "user", "content": "?"}, '
    (tmp_path / "sft.jsonl").write_text(record + '{"role": "assistant", "content": ""}]}\n')
    broken = CliRunner().invoke(app, ["doctor", str(config)])
    faults = [line for line in broken.stdout.splitlines() if line.startswith("fault")]
    assert broken.exit_code == 2 and len(faults) == 2
    assert faults[0].startswith(f"fault    data: {tmp_path}/sft.jsonl:1: messages.1.content:")
    assert faults[1].startswith(f"fault    taxonomy: {tmp_path}/none.yaml: No such file")
    del values["data"]["taxonomy"]
    config.write_text(yaml.safe_dump(values))
    (tmp_path / "sft.jsonl").write_text(record + '{"role": "assistant", "content": "!"}]}\n')
    mended = CliRunner().invoke(app, ["doctor", str(config)])
    assert mended.exit_code == 0, mended.stdout
    assert f"{tmp_path}/sft.jsonl: 1 records, all" in mended.stdout
    reward = tmp_path / "reward"
    base = Path(values["models"]["main"]["path"])
    model = load_reward_model(base, dtype=torch.float32, device="cpu")
    save_reward_model(model, load_tokenizer(base), reward, score_mean=None, score_std=None)
    values["models"]["main"]["path"] = str(reward)
    config.write_text(yaml.safe_dump(values))
    broken = CliRunner().invoke(app, ["doctor", str(config)])
    faults = [line for line in broken.stdout.splitlines() if line.startswith("fault")]
    told = "this is a reward model, and a language model is needed; name one"
    assert broken.exit_code == 2 and faults == [f"fault    model: {reward}: {told}"]


def test_held_out_files_count_as_one(tmp_path):
    """As the run reads them: what it refuses is told here too, in its words."""
    provenance = {"family": "baichuan", "model": "x", "size": "7b", "stage": "sft"}
    fields = {
        "prompt": {"id": "p", "messages": [{"role": "user", "content": "q"}]},
        "responses": [{"id": n, "text": n, "provenance": provenance} for n in "ab"],
        "ranks": [1, 2],
    }
    one, two = (tmp_path / name for name in ("one.jsonl", "two.jsonl"))

    def told(*files: Path) -> tuple[str, str]:
        config = load_config("tiny", [f"rm.data.held_out=[{', '.join(map(str, files))}]"])
        level, subject, message = next(config_files.check(config))
        assert subject == "data"
        return level, message

    absent = f"{one}, {two}: no such file; put it there, or correct the path in the config"
    assert told(one, two) == ("fault", absent)
    write_jsonl(one, [RankingRecord.model_validate(fields | {"id": name}) for name in "xy"])
    write_jsonl(two, [RankingRecord.model_validate(fields | {"id": name}) for name in "zx"])
    assert told(one) == ("ok", f"{one}: 2 records, all of them valid")
    assert told(one, two) == ("fault", f"{two}:2: id 'x' is in {one} too; ids are unique")
    assert told(one, one) == ("fault", f"{one}: this file is listed twice; name it once")
    write_jsonl(two, [RankingRecord.model_validate(fields | {"id": "z"})])
    assert told(one, two) == ("ok", f"{one}, {two}: 3 records, all of them valid")
    provenance["family"] = "unknown"
    write_jsonl(two, [RankingRecord.model_validate(fields | {"id": "z"})])
    config = load_config("tiny", [f"rm.data.held_out=[{one}, {two}]"])
    found = list(config_files.check(config))
    assert [each.message for each in found if each.level == "fault"] == [
        "responses from outside the families ['baichuan']: 2 from unknown/x; remove them, or set "
        "rm.data.off_family to drop or allow"
    ]


def test_benchmarks_are_read():
    pytest.importorskip("lm_eval")
    there = CapabilitySection(tasks=("demo_world",), limit=3)
    assert config_files.benchmarks(there).startswith("demo_world: 225 questions can be read, by lm")


def test_changed_keys(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["doctor", "tiny", "--set", "data.sft=nowhere.jsonl"])
    assert said.exit_code == 2 and "nowhere.jsonl: no such file" in said.stdout
    said = CliRunner().invoke(app, ["doctor", "tiny", "--set", "sft.epohcs=3"])
    assert said.exit_code == 2 and "did you mean sft.epochs?" in said.stdout
    for target in ([], [str(tmp_path)]):
        said = CliRunner().invoke(app, ["doctor", *target, "--set", "seed=1"])
        assert isinstance(said.exception, ValueError) and "name one" in str(said.exception)


def test_doctor_of_no_config():
    done = CliRunner().invoke(app, ["doctor", "tinny"])
    assert (
        done.exit_code == 2 and "config: tinny: no such config; did you mean tiny?" in done.stdout
    )
