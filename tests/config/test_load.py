from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf.config.load import dump_config, load_config, safe_yaml
from rlhf.config.paths import resource

MINIMAL = """\
name: small
models:
  main: {path: weights, architecture: baichuan2-7b, size: 7B}
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def error_of(path: Path | str, *overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_and_given_values(write):
    config = load_config(write(MINIMAL + "ppo: {clip: 0.3}\n"))
    assert (config.name, config.main.size, config.ppo.clip, config.ppo.iterations) == (
        "small",
        "7B",
        0.3,
        350,
    )


def test_base_is_merged_below_the_file_and_overrides_above_it(write):
    write(MINIMAL + "ppo: {clip: 0.3, gamma: 0.9, kl: {initial: 0.5}}\nseed: 1\n", "base.yaml")
    path = write("base: base.yaml\nname: child\nppo: {clip: 0.4}\n")
    config = load_config(path, ["ppo.kl.initial=0.1", "models.main.path=elsewhere"])
    assert (config.name, config.seed) == ("child", 1)
    assert (config.ppo.clip, config.ppo.gamma, config.ppo.kl.initial) == (0.4, 0.9, 0.1)
    assert (config.main.path, config.main.size) == ("elsewhere", "7B")


def test_of_several_bases_the_later_one_counts(write):
    write(MINIMAL + "seed: 1\nppo: {clip: 0.3, gamma: 0.9}\n", "first.yaml")
    write("ppo: {clip: 0.4, lam: 0.8}\nseed: 2\n", "second.yaml")
    config = load_config(write("base: [first.yaml, second.yaml]\nseed: 3\n"))
    assert (config.name, config.seed) == ("small", 3)
    assert (config.ppo.clip, config.ppo.gamma, config.ppo.lam) == (0.4, 0.9, 0.8)
    assert "or a list" in error_of(write("base: [first.yaml, 2]\n"))


PRESETS = "presets: {cpu: {seed: 7, ppo: {clip: 0.3}}, gpu: {seed: 8}}\n"


def test_a_preset_lies_between_the_files_and_the_overrides(write):
    path = write(MINIMAL + PRESETS + "seed: 1\nppo: {clip: 0.2, gamma: 0.9}\n")
    assert load_config(path).seed == 1
    config = load_config(path, ["ppo.clip=0.4", "preset=cpu"])
    assert (config.seed, config.ppo.clip, config.ppo.gamma) == (7, 0.4, 0.9)
    write(MINIMAL + PRESETS, "base.yaml")
    assert load_config(write("base: base.yaml\npreset: gpu\nseed: 3\n")).seed == 8


def test_a_preset_that_is_not_there_or_is_wrong(write):
    path = write(MINIMAL + PRESETS)
    assert error_of(path, "preset=tpu") == "preset = tpu: no such preset; choose cpu, gpu"
    assert "has none" in error_of(write(MINIMAL), "preset=cpu")
    assert "presets:" in error_of(write(MINIMAL + "presets: [cpu]\n"))
    wrong = error_of(write(MINIMAL + "presets: {cpu: {sed: 7}}\n"), "preset=cpu")
    assert "preset cpu" in wrong and "did you mean seed?" in wrong


def test_lists_and_null_replace(write):
    write(MINIMAL + "demo: {seed: 3}\nruntime: {trackers: [tensorboard, wandb]}\n", "base.yaml")
    config = load_config(write("base: base.yaml\ndemo: null\nruntime: {trackers: [mlflow]}\n"))
    assert config.demo is None
    assert config.runtime.trackers == ("mlflow",)


def test_base_cycle_is_refused(write):
    write(MINIMAL + "base: b.yaml\n", "a.yaml")
    path = write("base: a.yaml\n", "b.yaml")
    assert "leads back to itself" in error_of(path)


def test_missing_base_is_named(write):
    assert "absent.yaml: no such file" in error_of(write(MINIMAL + "base: absent.yaml\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sft: {epoch: 2}", "run.yaml: unknown key sft.epoch; did you mean sft.epochs?"),
        ("sfft: {}", "run.yaml: unknown key sfft; did you mean sft?"),
        (
            "ppo: {kl: {intial: 1}}",
            "run.yaml: unknown key ppo.kl.intial; did you mean ppo.kl.initial?",
        ),
        (
            "collect: {models: [{path: a, size: s, stge: sft}]}",
            "run.yaml: unknown key collect.models.0.stge; did you mean collect.models.0.stage?",
        ),
        (
            "sft: {curation: {xyz: 2}}",
            "run.yaml: unknown key sft.curation.xyz; valid here: sample, threshold, confidence",
        ),
        ("demo: {sead: 1}", "run.yaml: unknown key demo.sead; did you mean demo.seed?"),
    ],
)
def test_unknown_key_names_the_nearest(write, text, expected):
    assert expected in error_of(write(MINIMAL + text))


def test_unknown_key_under_a_model_whose_name_is_a_field_name(write):
    text = MINIMAL + "  path: {path: p, architecture: a, size: s, sise: t}\n"
    assert "unknown key models.path.sise; did you mean models.path.size?" in error_of(write(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sft: {epochs: three}", 'sft.epochs = "three"; expected a number'),
        ('rm: {batch_size: "64"}', 'rm.batch_size = "64"; expected a whole number'),
        ("sft: {epochs: true}", "sft.epochs = true; expected a number"),
        ("output_dir: 5", "output_dir = 5; expected text (put it in quotes)"),
        ("ppo: 3", "ppo = 3; expected a mapping"),
        ("ppo: {sampling: {stop: ['']}}", 'stop.0 = ""; expected text that is not empty'),
        ("runtime: {device: gpu}", "runtime.device = \"gpu\"; expected 'auto', 'cpu' or 'cuda'"),
        ("runtime: {threads: 1000000}", "runtime.threads = 1000000; expected less than or"),
        ("runtime: {timeout: 1000000000}", "runtime.timeout = 1000000000; expected less than or"),
        ("ppo: {clip: .nan}", "ppo.clip = NaN; expected a finite number"),
        ("sft: {max_length: 3}", "sft.max_length: 3 tokens hold no answer with its question"),
        ("rm: {data: {max_length: 2}}", "rm.data.max_length: 2 tokens hold no answer"),
        ("ppo: {ema_decay: 1}", "ppo.ema_decay = 1; expected less than 1"),
        ("ppo: {clip: -0.5}", "ppo.clip = -0.5; expected greater than 0"),
        (
            "ppo: {kl: {schedule: adaptive, target: 6, horizon: 20}}",
            "ppo: kl.horizon = 20 is in responses, of which an iteration has 64",
        ),
        ("ppo: {minibatch: 48}", "ppo: rollout_batch x responses_per_prompt = 64 is not"),
        ("sft: {tuning: {targets: 5}}", "sft.tuning.targets = 5; expected a list or 'all-linear'"),
        ("models: {main: {path: p}}", "models.main.architecture is missing; add it (and 1 more"),
        ("annotation: {source: file}", "run.yaml: annotation.source is 'file': name the ranking"),
    ],
)
def test_wrong_value_names_key_value_and_what_is_expected(write, text, expected):
    path = write(text + "\nname: n" + ("" if "models" in text else MINIMAL.partition("small")[2]))
    assert expected in error_of(path)


def test_first_error_and_how_many_more(write):
    text = MINIMAL + "sft: {epochs: x, packing: 3}\nseed: y\n"
    assert error_of(write(text)).endswith("(and 2 more errors)")


def test_error_names_the_layer_that_is_wrong(write):
    write(MINIMAL + "sft: {epoch: 2}\n", "base.yaml")
    path = write("base: base.yaml\nsft: {epochs: 2}\n")
    assert error_of(path).startswith(str(path.parent / "base.yaml") + ": ")
    clean = write(MINIMAL)
    assert error_of(clean, "ppo.klip=1").startswith("--set: unknown key ppo.klip; did you mean")


@pytest.mark.parametrize("override", ["ppo.clip", "=3", ""])
def test_override_without_key_and_value(write, override):
    assert "expected key=value" in error_of(write(MINIMAL), override)


def test_duplicate_key_is_refused_with_its_line(write):
    message = error_of(write(MINIMAL + "seed: 1\nppo: {clip: 0.1}\nseed: 2\n"))
    assert "run.yaml:6: not valid YAML: key 'seed' was given on line 4 already" in message


def test_exponents_are_numbers(write):
    config = load_config(write(MINIMAL + "ppo: {clip: 5e-6}\n"), ["ppo.gamma=1e-1"])
    assert (config.ppo.clip, config.ppo.gamma) == (5e-6, 0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "run.yaml:2: not valid YAML"),
        ("- a", "'key: value' lines"),
        ("", "'key: value'"),
        ("a: 1\nname: !!binary aGk=", "run.yaml:2: not valid YAML: !!binary is no value"),
        ("a: !!set {b}", "run.yaml:1: not valid YAML: !!set is no value of a config"),
        ("- !!omap [a: 1]", "!!omap is no value"),
        ("name: &a [*a]", "run.yaml: more than 100,000 values; an alias repeats or contains"),
        ("a: " + "[" * 20_000, "run.yaml: not valid YAML: nested too deeply"),
        (
            "\n".join(
                f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]" for n in range(10)
            ),
            "run.yaml: more than 100,000 values",
        ),
        (f"name: {'a' * 101}", "use at most 100 characters; a folder is named so"),
    ],
)
def test_text_that_is_no_config(write, text, expected):
    assert expected in error_of(write(text + "\n"))


def test_other_yaml_has_an_end_too():
    """libyaml's own recursion knows no limit, and would end the process."""
    assert safe_yaml("a: [1, {b: x}]") == {"a": [1, {"b": "x"}]}
    with pytest.raises(yaml.YAMLError, match="nested too deeply"):
        safe_yaml("[" * 200_000)


def test_files_that_cannot_be_read(tmp_path):
    assert "Is a directory" in error_of(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in error_of(tmp_path / "binary")
    assert "no such config; packaged configs: " in error_of("qqqqqq")
    assert "did you mean tiny?" in error_of("tinny.yaml")


@pytest.mark.parametrize("name", ["tiny", "tiny.yaml", "configs/tiny.yaml"])
def test_packaged_config_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(resource("configs/tiny.yaml"))


def test_dump_reads_back(write):
    overrides = ["models.main.size='7e3'", "ppo.clip=3e-7", "name='2026'", "data.sft='数据.jsonl'"]
    config = load_config(write(MINIMAL), overrides)
    assert load_config(write(dump_config(config), "dumped.yaml")) == config


def test_every_packaged_config_loads():
    for path in [
        *resource("configs").glob("*.yaml"),
        *resource("configs").glob("ablations/*.yaml"),
    ]:
        load_config(path)


def test_resource_that_is_not_there():
    with pytest.raises(ValueError, match="no such file comes with rlhf"):
        resource("configs/absent.yaml")
