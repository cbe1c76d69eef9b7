"""Every published config: it is whole, it says what it needs, and it rehearses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf.apps.run import run
from rlhf.config.load import load_config
from rlhf.demo.rehearse import rehearse
from rlhf.models.registry import named
from tests.stages.worlds import WORLD

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("ablations/*.yaml")])
PRESETS = sorted(CONFIGS.glob("presets/*.yaml"))
SFT_ALONE = [path.stem for path in FILES if load_config(path).stages == ("sft",)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_resolves_and_so_does_its_rehearsal(path: Path) -> None:
    config = load_config(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert rehearse(config).stages == config.stages
    for entry in config.models.values():
        spec, targets = named(entry.architecture), config.sft.tuning.targets
        assert targets == "all-linear" or set(targets) <= set(spec.lora_targets)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_base(path: Path, tmp_path: Path) -> None:
    model = {"path": "weights/x", "architecture": "baichuan2-7b", "size": "7b"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.dump({"base": str(path), "name": "mine", "models": {"main": model}}))
    load_config(file)


def test_the_report_s_optimiser() -> None:
    full = load_config("baichuan2_7b_full")
    optimiser = full.sft.optimiser
    assert (optimiser.beta1, optimiser.beta2, optimiser.weight_decay) == (0.9, 0.95, 0.1)
    assert (optimiser.grad_clip, optimiser.schedule, optimiser.minimum) == (0.5, "cosine", 0.1)
    assert (full.sft.max_z_weight, full.runtime.precision) == (2e-4, "bfloat16")
    preset = yaml.safe_load((CONFIGS / "presets/baichuan2_report.yaml").read_text("utf-8"))
    assert preset["sft"]["optimiser"]["warmup_steps"] == 2000


@pytest.mark.slow
@pytest.mark.parametrize("name", SFT_ALONE)
def test_fine_tuning_alone_rehearses(name: str, tmp_path: Path) -> None:
    config = load_config(name, [f"output_dir={tmp_path}", "sft.max_steps=3", "sft.eval_every=3"])
    small = rehearse(config)
    assert small.demo is not None
    demo = small.demo.model_copy(update=WORLD)
    small = small.model_copy(update={"demo": demo})
    run(small, start=None, only=None, redo=None, rehearsal=False)
    run_dir = tmp_path / f"{config.name}-rehearsal"
    assert sorted(entry.name for entry in run_dir.iterdir() if (entry / "main").is_dir()) == ["sft"]
    assert (run_dir / "sft/main/loss.png").read_bytes().startswith(b"\x89PNG")
    assert (run_dir / "sft/main/model.safetensors").is_file()
