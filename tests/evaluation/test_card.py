from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from rich.console import Console

from rlhf.config.load import load_config
from rlhf.evaluation import card as cards
from rlhf.models.registry import named
from rlhf.models.turns import Turns
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.files import hash_path
from rlhf.runtime.lineage import trace
from rlhf.runtime.run_dir import RunDir
from rlhf.runtime.steps import Step, execute


@pytest.fixture
def runtime(tmp_path) -> Runtime:
    place, console = RunDir(tmp_path / "run"), Console(quiet=True)
    return Runtime(place, torch.device("cpu"), torch.float32, 0, 1, 1, console)


@pytest.fixture
def made(checkpoint, runtime, tmp_path) -> StageResult:
    """An SFT model and what it comes from."""
    model = checkpoint()
    (tmp_path / "sft.jsonl").write_text("{}\n" * 1234)

    def work(step: Step) -> dict[str, float | int | str | None]:
        for file in model.iterdir():
            if file.suffix != ".py":
                (step.directory / file.name).write_bytes(file.read_bytes())
        return {"eval_loss_after": 0.123456, "steps": 7}

    inputs = {"model": model, "train": tmp_path / "sft.jsonl"}
    directory = runtime.run_dir.stage("sft/main")
    return execute(Step("sft/main", "sft", directory, (), inputs, work), runtime)


def test_what_a_card_says(made, runtime):
    """And that it changes no hash: what was made from the model is still up to date."""
    hash, outputs = hash_path(made.directory), trace(made.directory).manifest.outputs
    config = load_config("baichuan2_7b")
    assert cards.with_cards(made, config, runtime) is made
    text = (made.directory / "README.md").read_text(encoding="utf-8")
    front, body = text.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front)["tags"] == ["rlhf", "baichuan2-7b", "sft"]
    base = trace(made.directory).base
    assert f"`{base.path}`, baichuan2-7b, sha256 `{base.hash}`" in body
    assert f"sft.jsonl` | 1,234 | `{hash_path(base.path.parent / 'sft.jsonl')}` |" in body
    assert "| eval loss after | 0.1235 |" in body and "learning_rate: 0.0001" in body
    assert "Baichuan community licence" in body and "simulated" not in body.lower()
    assert hash_path(made.directory) == hash
    assert trace(made.directory).manifest.outputs == outputs and "README.md" not in outputs


def test_what_has_no_card(made, runtime, tmp_path):
    waiting = replace(made, waiting="for rankings")
    (tmp_path / "borrowed").symlink_to(made.directory, target_is_directory=True)
    borrowed = replace(made, directory=tmp_path / "borrowed")
    for result in (waiting, borrowed):
        cards.with_cards(result, load_config("tiny"), runtime)
    assert not (made.directory / "README.md").exists()


def test_notes_and_sections():
    tiny, real = load_config("tiny"), load_config("baichuan2_7b")
    assert cards.notes(real, "ppo") == []
    assert [note.split()[0] for note in cards.notes(tiny, "rm")] == ["Trained", "The"]
    assert "SIMULATED" not in " ".join(cards.notes(tiny, "sft"))
    assert "SIMULATED" in " ".join(cards.notes(real, "ppo", simulated=True))  # another run's
    assert cards.section(real, "sft_extra", "evaluate") == real.sft
    assert cards.section(real, "critic", "ppo") == real.ppo


def test_licences(made, tmp_path):
    base = trace(made.directory).base
    assert "Baichuan community licence" in cards.licence(named("baichuan-7b"), base)
    assert "MOSS" in cards.licence(named("moss-moon-003"), base)
    imported = replace(named("baichuan-7b"), turns=Turns("", "", ""))
    assert "imported from another family" in cards.licence(imported, base)
    demo = replace(base, path=tmp_path / "demo" / "models" / "rope")
    assert "random" in cards.licence(named("baichuan-7b"), demo)
