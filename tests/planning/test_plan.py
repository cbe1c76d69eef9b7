from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rlhf.planning import plan
from rlhf.planning.deepspeed import decide
from rlhf.planning.judging import judging
from rlhf.planning.models import layer_sizes
from rlhf.planning.phases import collecting, dpo_phases
from rlhf.planning.rates import H100
from rlhf.planning.schedule import sampling_seconds
from rlhf.planning.setting import GIB, Setting
from tests.planning.sizes import SMALL, TUNED, WHOLE, config_of, small

BLOCKS = 5 * (4 * 64**2 + 3 * 64 * 96 + 2 * 64) + 64
"""Weights of the small model but for the embedding and the head."""


@pytest.fixture(scope="module")
def whole():
    config, specs = small("sft.max_steps=10")
    return plan(config, specs=specs)


def test_every_stage_of_a_run(whole):
    assert [stage.name for stage in whole.stages] == [
        "sft/main",
        "collect",
        "rm",
        "ppo",
        "evaluate",
    ]
    assert whole.fits and not whole.options
    sft, _, rm, ppo, _ = whole.stages
    assert (sft.duration.count, rm.duration.count, ppo.duration.count) == (10, 125, 350)
    assert whole.hours == pytest.approx(sum(stage.duration.hours for stage in whole.stages))


def test_roles_of_a_shared_trunk(whole):
    loading, sampling = whole.stages[3].phases[:2]
    assert {part.role for part in loading.parts} == {"trunk"}
    trunk = next(part.size for part in sampling.parts if part.role == "trunk")
    assert trunk == 2 * (2 * 1000 * 64 + BLOCKS)
    slots = 128  # as many as are sampled together, for all fit
    assert sampling.of("kv cache") == slots * 1024 * 2 * 5 * 64 * 2


def test_policies_are_gone_when_the_judge_comes(whole):
    answers, judging = whole.stages[4].phases
    weights = {part.role for part in answers.parts}, {part.role for part in judging.parts}
    assert weights == ({"model"}, {"judge"})
    assert judging.parts[0].size == 2 * (1000 * 64 + BLOCKS + 64)  # the scalar head has 64


def test_the_trained_reward_model_is_gone_when_the_saved_one_scores(whole):
    """While it trains it is evaluated, with its optimiser beside it."""
    evaluation, pairs = whole.stages[2].phases[-2:]
    assert (evaluation.name, pairs.name) == ("evaluation", "held-out pairs")
    assert evaluation.of("optimiser") and not evaluation.of("gradients")
    assert {part.role for part in pairs.parts} == {"saved model"}
    assert pairs.parts[0].size == 2 * (1000 * 64 + BLOCKS + 64)
    assert pairs.of("activations") == evaluation.of("activations") > 0


def test_later_rounds_collect_from_ppo_too():
    """The second round deals as many answers over two sources as the first over one: the plan has
    two passes, of the mean of both, and the phases of either model."""
    keys = "stages=[collect]", "annotation.source=page", "collect.batch_size=1"

    def collect(rounds):
        config, specs = small(f"rounds={rounds}", *keys)
        (stage,) = plan(config, specs=specs).stages
        return stage

    one, two, three = map(collect, (1, 2, 3))
    assert [phase.name for phase in one.phases] == ["sampling 7b sft"]
    names = ["sampling 7b sft", "sampling 7b ppo of this run"]
    assert [phase.name for phase in two.phases] == [phase.name for phase in three.phases] == names
    assert two.phases[1].of("weights") == 2 * (2 * 1000 * 64 + BLOCKS)
    # As large as the SFT model, one answer at a time: half each takes as long as all from one.
    assert (two.duration.count, three.duration.count) == (2, 3)
    assert two.duration.seconds == pytest.approx(one.duration.seconds)


def test_a_larger_source_of_the_first_round_answers_less_in_the_second():
    """13B and 7B-Chat as the config has them: thirds of 8,800 answers, then quarters."""
    config = config_of(WHOLE, "rounds=2", "stages=[collect]", "annotation.source=page")
    setting = Setting(config)
    first, second = (collecting(setting, number) for number in (1, 2))
    assert [model.rollout.sequences for model in first] == [answers(config) // 3] * 3
    assert [model.rollout.sequences for model in second] == [answers(config) // 4] * 4
    assert [model.spec.layers for model in second] == [32, 32, 40, 32]
    (stage,) = plan(config).stages
    each = [
        sum(sampling_seconds(setting, m.spec, m.rollout, m.slots(setting)) for m in models)
        for models in (first, second)
    ]
    assert 3600 * stage.duration.hours == pytest.approx(sum(each))


def answers(config):
    section = config.collect
    return (section.prompts + section.eval_prompts) * section.responses_per_prompt


PPO_ALONE = ("ppo.roles=separate", "ppo.tuning.method=full", "stages=[ppo]")


def ppo_plan(*keys, gpus=1):
    config, specs = small(*PPO_ALONE, *keys)
    (stage,) = plan(config, gpus=gpus, specs=specs).stages
    return stage


def test_an_average_of_the_actor_is_kept_in_float32():
    """4 bytes a weight in every phase but loading, the adapters' alone with LoRA, a share of it
    where weights are spread; each step reads it and the weights and writes it, 12 bytes."""
    keys = "ppo.ema_decay=0.99", "ppo.rollout_batch=64", "ppo.minibatch=32", "ppo.epochs=1"
    actor = 2 * 1000 * 64 + BLOCKS
    more = [
        with_it.of("weights") - without.of("weights")
        for with_it, without in zip(ppo_plan(*keys).phases, ppo_plan(*keys[1:]).phases, strict=True)
    ]
    assert more == [0, *[4 * actor] * (len(more) - 1)]
    spread, plain = (ppo_plan("runtime.deepspeed=zero3", *k, gpus=4) for k in (keys, keys[1:]))
    more = spread.phases[1].of("weights") - plain.phases[1].of("weights")
    assert more == actor  # 4 bytes a weight over 4 GPUs
    lora = "ppo.tuning.method=lora", "ppo.tuning.r=2"
    adapters = 5 * 2 * ((64 + 192) + 2 * 64 + 3 * (64 + 96))
    more = ppo_plan(*keys, *lora).phases[1], ppo_plan(*keys[1:], *lora).phases[1]
    assert more[0].peak - more[1].peak == 4 * adapters
    seconds = ppo_plan(*keys).duration.seconds - ppo_plan(*keys[1:]).duration.seconds
    assert seconds == pytest.approx(2 * 12 * actor / H100.bandwidth)


def test_a_judge_of_ppo_is_one_model_more(tmp_path):
    """Whole on every GPU, spread or not; it reads what each has sampled once more."""
    judge = f"ppo.judge={tmp_path}"  # of the main model's sizes, as long as it is not there
    size = 2 * (1000 * 64 + BLOCKS + 64)
    for gpus, engine in ((1, "null"), (4, "zero2"), (4, "zero3")):
        runtime = f"runtime.deepspeed={engine}"
        with_it, without = ppo_plan(judge, runtime, gpus=gpus), ppo_plan(runtime, gpus=gpus)
        phases = {phase.name: phase for phase in with_it.phases}
        reads = phases.pop("judging")
        found = [phase.of("weights") for phase in phases.values()]
        less = [phase.of("weights") for phase in without.phases]
        assert found == [less[0], *(each + size for each in less[1:])]
        assert {part.size for part in reads.parts if part.role == "judge"} >= {size}
        assert reads.of("activations") > 0
    config, specs = small(*PPO_ALONE)
    section, (one, two) = config.ppo, (ppo_plan(judge), ppo_plan())
    length = section.max_prompt_tokens + section.sampling.max_new_tokens
    flops = section.episodes * length * (2 * 5 * (4 * 64**2 + 3 * 64 * 96) + 2 * 5 * 64 * length)
    assert one.duration.seconds - two.duration.seconds == pytest.approx(
        flops / (H100.product * H100.reading[False])
    )


def test_a_judge_that_is_named_judges_the_demo_too(tmp_path):
    """By its own sizes, where they are known."""
    config = config_of("configs/tiny.yaml", "stages=[evaluate]", f"evaluate.judge={tmp_path}")
    specs = {config.main.path: SMALL, str(tmp_path): replace(SMALL, layers=2)}
    assert [p.name for p in judging(Setting(config, specs=specs))] == ["judging"]
    (part, *_) = judging(Setting(config, specs=specs))[0].parts
    layer = 4 * 64**2 + 3 * 64 * 96 + 2 * 64
    assert part.size == 2 * (1000 * 64 + 2 * layer + 64 + 64)
    rubric = config.model_copy(
        update={"evaluate": config.evaluate.model_copy(update={"judge": None})}
    )
    assert judging(Setting(rubric, specs=specs)) == []


def test_an_adapter_on_dpo_s_head_brings_logits():
    """Which a fused head never has, of 512 tokens; its own weights learn, 2 (64 + 16000)."""
    spec = replace(SMALL, vocab_size=16000, norm_head=False)

    def dpo(targets):
        config, specs = small(
            f"dpo={{microbatch_size: 1, tuning: {{r: 2, method: lora, {targets}}}}}"
        )
        return dpo_phases(Setting(config, specs=dict.fromkeys(specs, spec)))

    without, with_it = dpo("targets: [W_pack]"), dpo("targets: [W_pack, lm_head]")
    assert not without[1].of("logits") and with_it[1].of("logits") == 512 * 16000 * 3 * 4
    more = with_it[2].of("optimiser") - without[2].of("optimiser")
    assert more == 2 * 4 * 2 * (64 + 16000)


def test_json(whole):
    read = json.loads(json.dumps(whole.as_dict()))
    assert read["fits"] and read["stages"][3]["unit"] == "iteration"
    phase = read["stages"][3]["phases"][3]
    assert phase["name"] == "actor's update"
    assert set(phase["roles"]) == {"trunk", "reward model", "actor", "critic"}


def test_says_what_would_fit():
    """Every weight of 7B is too much for one GPU: 16 bytes a weight."""
    found = plan(config_of(*TUNED))
    (stage,) = found.stages
    assert not found.fits and stage.phases[2].peak == 16 * 7_505_973_248
    fitting = {option.keys for option in found.options if option.fits}
    assert ("sft.tuning.method=lora",) in fitting
    spread = [option for option in found.options if "runtime.deepspeed=zero3" in option.keys]
    assert [(option.gpus, option.fits) for option in spread] == [(2, True)]


def test_what_would_fit_leaves_out_what_it_has_no_place_for():
    """Halves of weights are for one GPU and full tuning, compiled blocks not for ZeRO-3."""
    keys = ["tuning.method=full", "optimiser.kind=adamw-8bit", "split_weights=true", "compile=true"]
    given = [f"sft.{key}" for key in (*keys, "activation_budget=0.7")]
    config = config_of("configs/baichuan2_7b.yaml", "stages=[sft]", *given)
    found = plan(config, gpu_memory=40).options
    (lora,) = (option for option in found if "sft.tuning.method=lora" in option.keys)
    assert lora.fits and "sft.split_weights=false" in lora.keys
    spread = [option.keys for option in found if "runtime.deepspeed=zero3" in option.keys]
    left_out = {"split_weights=false", "compile=false", "activation_budget=1.0", "loss_chunk=null"}
    assert spread and {f"sft.{key}" for key in left_out} <= set(spread[0])


def test_a_batch_that_the_gpus_do_not_divide():
    config, specs = small()
    with pytest.raises(ValueError, match=r"sft\.batch_size = 64 is not a multiple of .* 3 GPUs"):
        plan(config, gpus=3, specs=specs)


def test_answers_that_leave_no_room_for_a_prompt():
    """As a run refuses them; demo models and others that are not there by the sizes given."""
    for stage in ("collect", "ppo", "evaluate"):
        config, specs = small(f"{stage}.sampling.max_new_tokens=4096", "annotation.source=page")
        with pytest.raises(ValueError, match=rf"{stage}\.sampling\.max_new_tokens 4096 leaves no"):
            plan(config, specs=specs)
    read = {path: replace(spec, context=300) for path, spec in specs.items()}
    config, _ = small("ppo.actor=run://dpo", "stages=[ppo]", "ppo.sampling.max_new_tokens=512")
    with pytest.raises(ValueError, match=r"ppo\.sampling.* reads 300 tokens"):
        plan(config, specs=read)


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize(
    ("engine", "keys", "refusal"),
    [
        ("zero3", [], r"sft\.loss_chunk does not work with ZeRO-3"),
        (
            "zero3",
            ["sft.loss_chunk=null", "sft.tuning.method=qlora"],
            r"sft\.tuning\.method is qlora",
        ),
        ("zero3", ["sft.loss_chunk=null", "sft.compile=true"], r"sft\.compile does not work"),
        (
            "zero2",
            ["sft.tuning.method=full", "sft.optimiser.kind=adamw-8bit", "sft.split_weights=true"],
            r"sft\.split_weights is not for DeepSpeed",
        ),
    ],
)
def test_deepspeed_is_refused_what_a_run_refuses(gpus, engine, keys, refusal):
    config, specs = small(f"runtime.deepspeed={engine}", "stages=[sft]", *keys)
    with pytest.raises(ValueError, match=refusal):
        plan(config, gpus=gpus, specs=specs)


def test_one_gpu_with_its_optimiser_on_the_cpu():
    """16 bits of each weight and gradient on the GPU; in float32 on the host weight, gradient and
    two averages."""
    keys = ["stages=[sft]", "runtime.deepspeed=zero3_offload"]
    (stage,) = plan(config_of("configs/baichuan2_7b_full.yaml", *keys)).stages
    assert stage.engine == "ZeRO-3 + offload" and stage.fits
    training = stage.phases[1]
    assert training.of("weights") >= 2 * 7_505_973_248 and training.of("optimiser") == 0
    assert training.host == 16 * 7_505_973_248


def test_ppo_in_one_process_is_spread_over_nothing():
    """What runtime.deepspeed names is not PPO's then."""
    keys = ["ppo.roles=separate", "ppo.tuning.method=full", "stages=[ppo]"]
    config, specs = small(*keys, "runtime.deepspeed=zero3")
    plain = config.model_copy(update={"runtime": small()[0].runtime})
    assert plan(config, specs=specs).stages == plan(plain, specs=specs).stages


def test_ppo_spreads_four_models():
    """At rest a GPU of four holds a quarter of the weights, and the actor whole to sample with; by
    ZeRO-2 the reference and the reward model, too."""
    config, specs = small("ppo.roles=separate", "ppo.tuning.method=full", "stages=[ppo]")

    def sampling(deepspeed):
        runtime = config.runtime.model_copy(update={"deepspeed": deepspeed})
        changed = config.model_copy(update={"runtime": runtime})
        (stage,) = plan(changed, gpus=4, specs=specs).stages
        return stage.engine, stage.phases[1].of("weights")

    engines, (one, two, three) = zip(*map(sampling, (None, "zero2", "zero3")), strict=True)
    assert engines == ("data parallel", "ZeRO-2", "ZeRO-3")
    whole, scorer = 2 * (2 * 1000 * 64 + BLOCKS), 2 * (1000 * 64 + BLOCKS + 64)
    assert three == pytest.approx(one / 4 + whole, abs=8)
    assert two == pytest.approx(three + 3 / 4 * (whole + scorer), abs=8)


HEAD = 2 * 1000 * 64
"""Bytes of the small model's head, and of its embedding."""


@pytest.mark.parametrize(
    ("deepspeed", "expected"),
    [
        (None, 2 * HEAD + 2 * BLOCKS),
        ("zero2", 2 * (2 * HEAD + 2 * BLOCKS)),  # and once more, in one piece
        ("zero3", (2 * HEAD + 2 * BLOCKS) / 4 + HEAD),  # a part, and the largest part whole
    ],
)
def test_loading(deepspeed, expected):
    keys = ["sft.tuning.method=full", "stages=[sft]", "sft.loss_chunk=null"]
    config, specs = small(*keys, f"runtime.deepspeed={deepspeed or 'null'}")
    phase = plan(config, gpus=4, specs=specs).stages[0].phases[0]
    assert (phase.name, phase.host) == ("loading", 0)
    assert phase.peak == pytest.approx(expected, abs=8)


def test_loading_the_roles_of_ppo():
    """The actor is read when two are there, the critic when three are: a quarter of each."""
    keys = ["ppo.roles=separate", "ppo.tuning.method=full", "stages=[ppo]"]
    config, specs = small(*keys, "runtime.deepspeed=zero3")
    speaker, scorer = 2 * HEAD + 2 * BLOCKS, HEAD + 2 * BLOCKS + 2 * 64
    phase = plan(config, gpus=4, specs=specs).stages[0].phases[0]
    outside = 2 * (5 * 2 * 64 + 64)  # norms
    actor = (2 * speaker + scorer) / 4 + 2 * HEAD + outside
    critic = (2 * speaker + 2 * scorer) / 4 + HEAD + outside + 2 * 64
    assert phase.peak == pytest.approx(max(actor, critic), abs=8)


def test_sources_that_are_not_there_go_by_their_size():
    setting = Setting(config_of(WHOLE))
    assert setting.source("weights/Baichuan2-13B-Chat", "13b").layers == 40
    assert setting.source("run://sft/main", "7b").layers == 32


def test_deepspeed_spreads_no_more_than_it_must():
    config = config_of(*TUNED)
    assert decide(config, gpus=8).values["zero_optimization"]["stage"] == 2
    tight = decide(config, gpus=16, gpu_memory=24)
    zero = tight.values["zero_optimization"]
    assert (zero["stage"], zero["zero_hpz_partition_size"]) == (3, 8)
    assert 0 < tight.whole < tight.layers == 32
    assert tight.peak_gib * GIB <= Setting(config, memory=24).usable
    assert kept_layers(zero, layer_sizes(Setting(config).main, "causal", config.sft.tuning)) == (
        tight.whole
    )


def kept_layers(zero, layer) -> int:
    """How many DeepSpeed (0.19, ZeRO-3's mark_persistent_parameters) leaves whole."""
    total, whole = 0, 0
    for _ in range(32):
        kept = 0
        for size in layer:
            if total + size > zero["stage3_model_persistence_threshold"]:
                continue
            if size <= zero["stage3_param_persistence_threshold"]:
                total += size
                kept += 1
        whole += kept == len(layer)
    return whole


PPO_APART = ("ppo.roles=separate", "ppo.tuning.method=full", "stages=[sft, ppo]")
PPO_REFUSES = {
    "ppo.microbatch_tokens=4096": "ppo.microbatch_tokens gives processes differently many",
    "ppo.actor_optimiser.kind=adamw-8bit": "kind adamw-8bit is not spread by ZeRO; set adamw",
    "ppo.pretraining={data: text.jsonl, rows: 9}": "rows = 9 is not a multiple of .* processes = 2",
    "ppo.tuning.method=qlora": "ZeRO does not spread 4-bit weights; set it to lora, or ppo.roles",
}


@pytest.mark.parametrize(("key", "refusal"), PPO_REFUSES.items())
def test_what_a_run_refuses_of_ppo_that_is_spread(key, refusal):
    """By any ZeRO, also one that is to be decided; not on one trunk, nor in one process."""
    config, specs = small(*PPO_APART, "runtime.deepspeed=zero2", key)
    with pytest.raises(ValueError, match=refusal):
        plan(config, gpus=2, specs=specs)
    with pytest.raises(ValueError, match=refusal):
        decide(config, gpus=2, specs=specs)
    assert plan(config, gpus=1, specs=specs).fits
    shared = ("ppo.roles=shared", "ppo.tuning.method=lora", "stages=[ppo]")
    config, specs = small(*shared, "runtime.deepspeed=zero2", key)
    assert plan(config, gpus=2, specs=specs).fits


def test_a_minibatch_that_the_gpus_do_not_divide():
    """Whether the models are spread or not."""
    refusal = r"ppo\.minibatch = 64 is not a multiple of the number of processes = 3"
    for roles in (["ppo.roles=shared"], PPO_APART[:2]):
        config, specs = small("stages=[ppo]", *roles)
        with pytest.raises(ValueError, match=refusal):
            plan(config, gpus=3, specs=specs)
    config, specs = small("stages=[sft, ppo]", "sft.batch_size=48", "sft.microbatch_size=4")
    with pytest.raises(ValueError, match=refusal):
        decide(config, gpus=3, specs=specs)


def test_ppo_with_roles_apart_takes_no_optimiser_on_the_cpu():
    """So none is written for it: on one trunk, or without PPO, it is the last resort."""
    keys = ("runtime.deepspeed=zero3_offload", "sft.loss_chunk=null", *PPO_APART)
    config, specs = small(*keys)
    with pytest.raises(
        ValueError, match="optimiser on the CPU, which ppo with separate roles cannot"
    ):
        plan(config, gpus=2, specs=specs)
    tight = {"gpus": 2, "gpu_memory": 48}
    tuned = (*TUNED, "ppo.roles=separate", "ppo.tuning.method=full")
    with pytest.raises(ValueError, match=r"no engine fits 2 GPUs .* with ppo\.roles: shared"):
        decide(config_of(*tuned, "stages=[sft, ppo]"), **tight)
    assert decide(config_of(*tuned), **tight).engine.offload
    assert decide(config_of(*TUNED, "stages=[sft, ppo]"), **tight).engine.offload


def test_deepspeed_needs_gpus_and_a_stage():
    with pytest.raises(ValueError, match="give --gpus 2"):
        decide(config_of(*TUNED), gpus=1)
    with pytest.raises(ValueError, match="has none of them"):
        decide(config_of(WHOLE, "stages=[ppo]"), gpus=2)
    with pytest.raises(ValueError, match="no engine fits 2 GPUs of 2 GiB"):
        decide(config_of(*TUNED), gpus=2, gpu_memory=2)
