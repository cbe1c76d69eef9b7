"""Every published config: it is whole, it says what it needs, and it rehearses.

All are resolved, and so is the rehearsal of each; then all are run, every stage, with tiny models
and fewer steps. tiny.yaml is run whole elsewhere (.ci/run), its ablations are run here, every
variant with one seed. What a rehearsal turns into something else is not seen here: QLoRA becomes
LoRA, 8-bit AdamW the plain one, and DeepSpeed is off, since this is one process.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlhf.apps import ablation
from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.demo.rehearse import rehearse
from rlhf.evaluation import drawing
from rlhf.models.registry import named
from tests.stages.worlds import call, miniature, statuses

CONFIGS = Path(__file__).parents[1] / "configs"
WHOLE = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "tiny")
ABLATIONS = sorted(CONFIGS.glob("ablations/*.yaml"))
FILES = [*WHOLE, CONFIGS / "tiny.yaml", *ABLATIONS]
PRESETS = sorted(CONFIGS.glob("presets/*.yaml"))
SHORTER = (
    "runtime.deepspeed=null",  # one process: several are what tests/training and tests/ppo run
    *("sft.max_steps=2", "sft.eval_every=2", "sft.batch_size=8", "sft.microbatch_size=8"),
    *("collect.prompts=8", "collect.eval_prompts=4"),
    *("rm.max_steps=2", "rm.batch_size=2", "rm.microbatch_size=2"),
    *("ppo.iterations=2", "ppo.rollout_batch=4", "ppo.minibatch=4", "ppo.microbatch=4"),
    *("evaluate.prompts=4", "evaluate.extra_sft=false"),
)
ABLATED = (*SHORTER, "ablation.seeds=[0]", "ablation.reuse=[]")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_resolves_and_so_does_its_rehearsal(path: Path) -> None:
    config = load_config(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert config.name == path.stem or path.parent != CONFIGS
    assert rehearse(config).stages == config.stages
    for entry in config.models.values():
        spec, targets = named(entry.architecture), config.sft.tuning.targets
        assert targets == "all-linear" or set(targets) <= set(spec.lora_targets)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_base(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    bases = [str(CONFIGS / "baichuan2_7b.yaml"), str(path)]
    file.write_text(yaml.dump({"base": bases, "name": "mine"}))
    load_config(file)


def test_presets_of_a_config_resolve() -> None:
    shortened = [path for path in FILES if "presets" in yaml.safe_load(path.read_text())]
    assert len(shortened) == 3
    for path in shortened:
        config = load_config(path, ["preset=cpu"])
        assert config.name == f"{path.stem}-cpu"


def test_the_report_s_optimiser() -> None:
    full = load_config("baichuan2_7b_full")
    optimiser = full.sft.optimiser
    assert (optimiser.beta1, optimiser.beta2, optimiser.weight_decay) == (0.9, 0.95, 0.1)
    assert (optimiser.grad_clip, optimiser.schedule, optimiser.minimum) == (0.5, "cosine", 0.1)
    assert (full.sft.max_z_weight, full.runtime.precision) == (2e-4, "bfloat16")
    preset = yaml.safe_load((CONFIGS / "presets/baichuan2_report.yaml").read_text("utf-8"))
    assert preset["sft"]["optimiser"]["warmup_steps"] == 2000


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_[137]*b.yaml")), ids=lambda path: path.stem)
def test_whole_configs_have_the_report_s_ppo(path: Path) -> None:
    """Baichuan 2 (arXiv 2309.10305), section 4.3; its variants change none of it."""
    for file in [path, *CONFIGS.glob(f"{path.stem}_*.yaml")]:
        ppo = load_config(file).ppo
        optimisers = (ppo.actor_optimiser, ppo.critic_optimiser)
        assert {(each.learning_rate, each.schedule) for each in optimisers} == {(5e-6, "constant")}
        assert {each.grad_clip for each in optimisers} == {0.5}
        assert (ppo.iterations, ppo.critic_warmup, ppo.clip) == (350, 20, 0.1)
        assert (ppo.kl.initial, ppo.kl.final) == (0.2, 0.005)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they look like is tested elsewhere, and takes longer than a stage."""
    monkeypatch.setattr(drawing, "render", lambda *_: (b"\x89PNG", "<svg></svg>"))


def finished_stages(config: Config) -> set[str]:
    """What the manifest has after a run of all the config's stages."""
    stages = config.stages or ("collect", "rm", "ppo", "evaluate/policy")
    found = {stage for stage in stages if stage != "sft"}
    if config.stages is None or "sft" in config.stages:
        found |= {f"sft/{name}" for name in config.models}
    return found | ({"dpo"} if config.dpo else set())


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("name", [path.stem for path in WHOLE])
def test_a_config_rehearses(name: str, tmp_path: Path) -> None:
    call(miniature("small", tmp_path, like=name), *SHORTER)
    config = load_config(name)
    alone, finished = config.stages, finished_stages(config)
    assert statuses(tmp_path / "small") == dict.fromkeys(finished, "done")
    if "sft/main" not in finished:
        assert (tmp_path / "small/rm/pairs.jsonl").is_file()
        return
    assert (tmp_path / "small/sft/main/loss.png").is_file()
    for model in ("sft/main", *(() if alone else ("ppo/actor", "ppo/critic"))):
        assert (tmp_path / "small" / model / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_rehearses(path: Path, tmp_path: Path) -> None:
    config = load_config(miniature("small", tmp_path, like=str(path)), ABLATED)
    assert config.ablation is not None
    ablation.run(config, rehearsal=False)
    table = json.loads((tmp_path / "small/ablation.json").read_text("utf-8"))["table"]
    assert {row["variant"] for row in table} == set(config.ablation.variants)
    assert {row["metric"] for row in table} == set(config.ablation.metrics)
