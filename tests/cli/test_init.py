from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from typer.testing import CliRunner

from rlhf.apps import world
from rlhf.apps.doctor.config_files import check as check_config
from rlhf.apps.init import questions
from rlhf.apps.init.write import MICROBATCHES, size_of
from rlhf.apps.run import run
from rlhf.cli import app
from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import Config, TuningSection
from rlhf.demo.rehearse import rehearse
from rlhf.models.adapter import add_lora
from rlhf.models.context import check_answers
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.registry import named, spec_on_disk
from rlhf.runtime.run_dir import RunDir
from tests.stages.worlds import WORLD


@pytest.fixture
def place(checkpoint, tmp_path, monkeypatch):
    """A folder with weights and data, as a user's."""
    (tmp_path / "weights").mkdir()
    checkpoint("baichuan2-13b").rename(tmp_path / "weights" / "My Model-13B")
    (tmp_path / "data").mkdir()
    for name in ("sft", "prompts"):
        (tmp_path / "data" / f"{name}.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(questions, "gpu_memory", lambda: [])
    return tmp_path


def call(*arguments: str, said: str = "") -> str:
    done = CliRunner().invoke(app, ["init", *arguments], input=said)
    assert done.exit_code == 0, done.output
    return done.output


def test_five_questions(place):
    """An answer that is none is asked for again; the next ones have defaults of their own."""
    output = call(said="nowhere\n\n\n2\nfull\nzh\n")
    assert output.count("Model directory") == 2 and "nowhere: no such directory" in output
    config = load_config(place / "my_model_13b_full.yaml")
    assert config.main.architecture == "baichuan2-13b"
    assert (
        config.main.path == "weights/My Model-13B" and config.data.prompts == "data/prompts.jsonl"
    )
    assert (config.runtime.device, config.ppo.roles) == ("cuda", "separate")
    assert config.sft.batch_size % (2 * config.sft.microbatch_size) == 0
    text = (place / "my_model_13b_full.yaml").read_text(encoding="utf-8")
    assert "几分钟" in text and "rlhf run my_model_13b_full.yaml --nproc 2" in text
    assert config.runtime.deepspeed == "zero3"


@pytest.mark.parametrize("tuning", questions.TUNINGS)
@pytest.mark.parametrize("gpus", ["0", "1", "6"])
def test_every_config_is_valid_and_can_be_rehearsed(place, tuning, gpus):
    call("--tuning", tuning, "--gpus", gpus, "--yes", "--out", "mine.yaml")
    config = load_config("mine.yaml")
    assert {section.tuning.method for section in (config.sft, config.rm, config.ppo)} == {tuning}
    processes = max(1, int(gpus))
    assert config.sft.batch_size % (processes * config.sft.microbatch_size) == 0
    assert config.ppo.minibatch % (processes * config.ppo.microbatch) == 0
    assert rehearse(config).demo is not None
    assert (config.runtime.deepspeed == "zero3") == (tuning == "full" and processes > 1)


@pytest.mark.parametrize(("tuning", "kind"), [("lora", ""), ("qlora", "_24gb"), ("full", "_full")])
def test_microbatches_are_the_packaged_configs(place, tuning, kind):
    call("--tuning", tuning, "--gpus", "2", "--yes", "--out", "mine.yaml")
    mine, packaged = (
        load_config(path) for path in ("mine.yaml", resource(f"configs/baichuan2_7b{kind}.yaml"))
    )
    for section, keys in {
        "sft": ("microbatch_size", "loss_chunk"),
        "collect": ("batch_size",),
        "rm": ("microbatch_size",),
        "ppo": ("microbatch", "scoring_microbatch", "rollout_microbatch"),
        "evaluate": ("batch_size",),
    }.items():
        for key in keys:
            written, expected = (getattr(getattr(one, section), key) for one in (mine, packaged))
            assert written == expected, f"{section}.{key}"
    assert set(MICROBATCHES) == set(questions.TUNINGS)


def test_answers_fit_into_what_the_model_reads(place):
    call("--yes", "--out", "mine.yaml")
    config = load_config("mine.yaml")  # of a model that reads 256 tokens
    assert (config.sft.max_length, config.rm.data.max_length) == (256, 256)
    for section in (config.collect, config.ppo, config.evaluate):
        assert section.sampling.max_new_tokens == 128
    check_answers(config, {"collect", "ppo", "evaluate"}, spec_on_disk)


def test_a_reward_model_is_not_tuned(place):
    base, reward = place / "weights" / "My Model-13B", place / "reward"
    model = load_reward_model(base, dtype=torch.float32, device="cpu")
    save_reward_model(model, load_tokenizer(base), reward, score_mean=None, score_std=None)
    with pytest.raises(ValueError) as error:
        questions.model_directory("reward")
    told = "reward: this is a reward model, and a language model is needed; name one"
    assert str(error.value) == told


@pytest.mark.parametrize("files", [(), ("config.json", "tokenizer.model")])
def test_an_adapter_is_refused_as_a_run_refuses_it(place, files):
    """As PEFT leaves it, and beside what a user copies to it: init, doctor, the beginning of a run
    and its first stage say the same."""
    base, adapter = place / "weights" / "My Model-13B", place / "adapter"
    model = load_causal_lm(base, dtype=torch.float32, device="cpu")
    add_lora(model, TuningSection(method="lora"), "causal").save_pretrained(str(adapter))
    for name in files:
        shutil.copy(base / name, adapter)
    call("--yes", "--out", "mine.yaml")
    values = load_config("mine.yaml").model_dump() | {"data": {}}
    values["models"]["main"]["path"] = str(adapter)
    config = Config.model_validate(values)
    told = (
        f"{adapter}: an adapter, not a whole language model; merge it into its base, with rlhf "
        "export or with PEFT, and name that"
    )
    for refuses in (
        lambda: questions.model_directory(str(adapter)),
        lambda: world.located(config),
        lambda: load_causal_lm(adapter, dtype=torch.float32, device="cpu"),
    ):
        with pytest.raises(ValueError) as error:
            refuses()
        assert str(error.value) == told
    found = list(check_config(config))
    assert [each.message for each in found if each.subject == "model"] == [told]


def test_its_commands_can_be_copied(place):
    said = call("--yes", "--out", "a b 中.yaml", "--language", "en")
    name = "'a b 中.yaml'"
    next_one = f"rlhf run {name} --rehearse, then rlhf doctor {name}"
    assert said == f"written: a b 中.yaml; next: {next_one}\n"
    lines = (place / "a b 中.yaml").read_text(encoding="utf-8").splitlines()
    commands = [line.removeprefix("#     ") for line in lines if line.startswith("#     ")]
    assert commands == [f"rlhf run {name} --rehearse", f"rlhf doctor {name}", f"rlhf run {name}"]


def test_the_files_say_which_stages(place):
    (place / "data" / "prompts.jsonl").unlink()
    call("--yes", "--out", "alone.yaml")
    assert load_config("alone.yaml").stages == ("sft",)
    (place / "data" / "prompts.jsonl").touch()
    (place / "data" / "rankings.jsonl").touch()
    call("--yes", "--out", "ranked.yaml")
    ranked = load_config("ranked.yaml")
    assert ranked.annotation.source == "file" and ranked.data.rankings == "data/rankings.jsonl"
    call("--yes", "--out", "file.yaml", "--data", "data/sft.jsonl")
    assert load_config("file.yaml").data.sft == "data/sft.jsonl"


def test_rankings_of_no_known_family_are_allowed(place):
    pair = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    (place / "pairs.json").write_text(json.dumps([pair]))
    words = ["--from", "trl-preference", "--in", "pairs.json", "--out", "data"]
    done = CliRunner().invoke(app, ["data", "convert", *words])
    told = "2 responses are of no known family, which a reward model refuses to learn from: set"
    assert told in done.output
    rankings = place / "data" / "records.jsonl"
    rankings = rankings.rename(place / "data" / "rankings.jsonl")
    call("--yes", "--out", "ranked.yaml", "--language", "en")
    assert load_config("ranked.yaml").rm.data.off_family == "allow"
    assert "# Nobody wrote down which models" in (place / "ranked.yaml").read_text()
    converted = rankings.read_text()
    for family in ("baichuan", "llama"):  # the one is the model's own, the other is known
        rankings.write_text(converted.replace('family":"unknown"', f'family":"{family}"'))
        call("--yes", "--out", f"{family}.yaml")
        assert load_config(f"{family}.yaml").rm.data.off_family == "refuse"


def test_a_rehearsal_runs(place, monkeypatch):
    monkeypatch.setattr("rlhf.demo.rehearse.WORLD", WORLD)
    call("--yes", "--out", "mine.yaml", "--tuning", "qlora")
    config = load_config("mine.yaml", ["sft.max_steps=1"])
    run(config, start=None, only="sft", redo=None, rehearsal=True)
    assert RunDir(place / "runs" / f"{config.name}-rehearsal").is_done("sft")


def test_nothing_is_overwritten_unasked(place):
    call("--yes", "--out", "mine.yaml")
    (place / "mine.yaml").write_text("mine")
    for arguments, said in ((["--yes"], ""), (["--model", "weights/My Model-13B"], "\n\n\n\nn\n")):
        done = CliRunner().invoke(app, ["init", *arguments, "--out", "mine.yaml"], input=said)
        assert "mine.yaml: already there, and left as it is" in str(done.exception)
        assert (place / "mine.yaml").read_text() == "mine"
    call("--out", "mine.yaml", said="\n\n\n\n\ny\n")
    assert load_config("mine.yaml").name == "my_model_13b_lora"


@pytest.mark.parametrize(
    ("option", "answer", "said"),
    [
        ("--model", "data", "data: no config.json, so no checkpoint"),
        ("--data", "none.jsonl", "none.jsonl: no such file"),
        ("--gpus", "two", "two: a whole number is wanted"),
        ("--tuning", "dora", "dora: choose lora, qlora, full"),
    ],
)
def test_wrong_options(place, option, answer, said):
    done = CliRunner().invoke(app, ["init", option, answer, "--yes"])
    assert isinstance(done.exception, ValueError) and said in str(done.exception)


def test_defaults_follow_from_the_gpus(place, monkeypatch):
    answers = {"model": "weights/My Model-13B", "gpus": 1}
    monkeypatch.setattr(questions, "spec_of", lambda _: named("baichuan2-7b"))  # 14 GiB in bfloat16
    for memory, tuning in (([80 * 2**30], "lora"), ([80 * 2**30, 24 * 2**30], "qlora")):
        monkeypatch.setattr(questions, "gpu_memory", lambda memory=memory: memory)
        assert questions.usual_tuning(answers) == tuning


def test_memory_as_the_driver_tells_it(monkeypatch):
    told = subprocess.CompletedProcess((), 0, stdout="24564\n81559\n", stderr="")
    monkeypatch.setattr(questions.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(questions.subprocess, "run", lambda *_, **__: told)
    assert questions.gpu_memory() == [24564 * 2**20, 81559 * 2**20]


def test_sizes(place):
    assert size_of(named("baichuan-13b")) == "13b" and size_of(named("moss-moon-003")) == "16.7b"
    assert size_of(questions.spec_of("weights/My Model-13B")) == "0m"
