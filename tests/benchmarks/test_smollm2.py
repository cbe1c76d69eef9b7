"""What the scripts of SmolLM2 make of their runs, without running any."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.export import save_checkpoint
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.runtime.files import hash_path
from rlhf.runtime.manifest import Artifact, StageManifest
from rlhf.runtime.run_dir import RunDir

FOLDER = Path(__file__).parents[2] / "benchmarks/smollm2"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script as a module of its own name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"smollm2_{name}", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
        return module

    return load


def trained(base: Path, out: Path, stage: str) -> None:
    """What an SFT stage leaves: merged weights, the adapter, a manifest."""
    model = add_lora(
        load_causal_lm(base, dtype=torch.bfloat16, device="cpu"),
        TuningSection(method="lora", r=4, alpha=8),
        "causal",
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    save_checkpoint(model, load_tokenizer(base), out)
    manifest = StageManifest(
        stage=stage,
        status="done",
        config_hash="",
        inputs={"model": Artifact(path="weights/smollm2_135m", hash="")},
        versions={},
        started="",
    )
    (out / "manifest.json").write_text(manifest.model_dump_json())


def test_a_state_makes_the_same_models_again(
    script: Callable[[str], ModuleType], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    state = script("state")
    work, base = tmp_path / "work", tmp_path / "work/weights/smollm2_135m"
    base.parent.mkdir(parents=True)
    shutil.copytree(checkpoint("baichuan-7b"), base)
    save_checkpoint(
        load_causal_lm(base, dtype=torch.float32, device="cpu"), load_tokenizer(base), base
    )
    (base / "tokenizer.json").write_text("{}")
    model = work / "runs/a-seed0/sft/main"
    trained(base, model, "sft")
    shutil.copyfile(base / "tokenizer.json", model / "tokenizer.json")
    settings = model / "config.json"  # training leaves its marks there
    settings.write_text(settings.read_text().replace('"use_cache": true', '"use_cache": false'))
    tasks = work / "runs/a-seed0/collect/tasks.jsonl"  # without it collecting would start again
    tasks.parent.mkdir()
    tasks.write_text("{}\n")
    before = hash_path(model)
    assert "1 adapters" in state.pack(work, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapters-0.tar",
        "logs.tar.xz",
    ]
    shutil.rmtree(work / "runs")
    assert "1 models as they were" in state.restore(work, tmp_path / "out")
    assert hash_path(model) == before and tasks.is_file()
    # Over another base it would be another model, and is taken away.
    other = checkpoint("baichuan-7b", name="other", seed=5)
    save_checkpoint(
        load_causal_lm(other, dtype=torch.float32, device="cpu"), load_tokenizer(other), base
    )
    assert "again: ['runs/a-seed0/sft/main']" in state.restore(work, tmp_path / "out")
    assert not (model / "model.safetensors").exists()


def test_what_does_not_fit_is_named(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    state = script("state")
    (tmp_path / "weights/smollm2_135m").mkdir(parents=True)
    (tmp_path / "weights/smollm2_135m/tokenizer.json").write_text("{}")
    for place, size in (
        ("smollm2_judge/rm", 600),
        ("b-seed0/dpo/adapter", 600),
        ("b-seed0/rm", 300),
    ):
        folder = tmp_path / "runs" / place
        folder.mkdir(parents=True)
        (folder / state.WEIGHTS).write_bytes(b"\0" * size * 1024)
    said = state.pack(tmp_path, tmp_path / "out", files=1, mib=1.0)
    assert said.startswith("state: 2 adapters") and said.endswith(
        "without runs/b-seed0/dpo/adapter"
    )


def test_score_and_judge_part_where_the_judge_is_best(script: Callable[[str], ModuleType]) -> None:
    # Two iterations a bin; the judge rises up to the fifth bin and falls after it.
    curve = [
        {"kl": float(i), "score_gain": 0.1 * i, "judge_gain": min(i, 18 - i) / 10}
        for i in range(16)
    ]
    found = script("results").parting(curve)
    assert len(found["bins"]) == 8 and found["kl_of_best"] == 8.5
    assert found["last"]["kl"] == 14.5 and found["best"] > found["last"]["judge_gain"]


def test_means_have_intervals_over_seeds(script: Callable[[str], ModuleType]) -> None:
    results = script("results")
    results.figures = lambda seed: {"x": seed}  # Student's t for 2 degrees of freedom: 4.3027
    entry = results.means([1.0, 2.0, 3.0])["x"]
    assert (entry["mean"], entry["values"]) == (2.0, [1.0, 2.0, 3.0])
    assert entry["high"] == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-3)
    assert results.means([1.0])["x"]["low"] is None


def test_the_section_takes_its_place_and_keeps_it(script: Callable[[str], ModuleType]) -> None:
    page = script("page")
    text = f"# Results\n\n{page.MARKED_BEFORE}\n\nmore\n"
    once = page.placed(text, "first")
    assert once.index("first") < once.index(page.MARKED_BEFORE)
    again = page.placed(once, "second")
    assert again == once.replace("first", "second")


def test_pieces_are_joined_in_order_over_calls(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = script("run")
    run.SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc"
    pieces, work = tmp_path / "pieces", tmp_path / "work"
    pieces.mkdir()
    work.mkdir()
    (pieces / "m.part-b").write_bytes(b"bc")
    assert run.joined(work, pieces) is None and "bring the rest" in capsys.readouterr().out
    (pieces / "m.part-b").unlink()
    (pieces / "m.part-a").write_bytes(b"a")
    file = run.joined(work, pieces)
    assert file is not None and file.read_bytes() == b"abc"


def test_every_machine_is_noted_once(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    run = script("run")
    path = tmp_path / "hardware.json"
    path.write_text('[{"cpu_cores": 0}]\n')  # another machine, on which the work began
    for _ in range(2):
        run.note_hardware(tmp_path)
    assert [found["cpu_cores"] > 0 for found in json.loads(path.read_text())] == [False, True]


def test_a_seed_goes_on_where_weights_are_gone(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    seed = script("seed")
    done: dict[str, list[str]] = {}

    def write(*models: str) -> None:
        for model in models:
            (tmp_path / model).mkdir(parents=True, exist_ok=True)
            (tmp_path / model / "model.safetensors").touch()

    run_dir = RunDir(tmp_path)
    monkeypatch.setattr(RunDir, "is_done", lambda self, name: name in done)
    assert seed.start(run_dir) is None
    done |= dict.fromkeys(("sft", "collect"), [])
    write("sft/main")
    assert seed.start(run_dir) == "dpo"  # the small size is read no more
    done |= dict.fromkeys(("dpo", "rm"), [])
    assert seed.start(run_dir) == "dpo"  # to be judged, and gone
    write("dpo")
    assert seed.start(run_dir) == "rm"
    write("rm", "ppo/actor")
    assert seed.start(run_dir) == "ppo"
    done |= dict.fromkeys(("ppo", "evaluate"), [])
    assert seed.start(run_dir) == "evaluate"
    (tmp_path / "sft/main/model.safetensors").unlink()
    assert seed.start(run_dir) is None
