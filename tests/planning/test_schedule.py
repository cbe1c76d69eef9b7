from __future__ import annotations

import json

import pytest

from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import RankingRecord
from rlhf.models.flops import iteration_flops
from rlhf.planning import plan
from rlhf.planning.models import weights
from rlhf.planning.rates import H100
from rlhf.planning.schedule import ppo_flops, ppo_parts
from rlhf.planning.setting import Setting
from rlhf.planning.stages import EXTRA_SFT
from tests.planning.sizes import SMALL, TUNED, WHOLE, config_of, small


@pytest.mark.parametrize(
    ("keys", "rm", "dpo"),
    [
        (["collect.prompts=4001"], 126 + 251, None),  # of 32 prompts; the second round has both's
        (["rm.max_steps=7", "dpo.max_steps=9"], 14, 18),
    ],
)
def test_every_round_trains_anew(keys, rm, dpo):
    config, specs = small("rounds=2", "stages=[dpo, rm]", "dpo={}", *keys)
    counts = [stage.duration.count for stage in plan(config, specs=specs).stages]
    assert counts == [dpo, rm]


@pytest.mark.parametrize(("packing", "steps"), [("true", 8), ("false", 6)])
def test_steps_of_a_file(tmp_path, packing, steps):
    """130 records of 1,008 bytes, 64 rows a step: in two epochs 65,520 tokens at 4 bytes each, in
    rows of 128 tokens when packed; else three steps an epoch, the last of 2 records."""
    path = tmp_path / "sft.jsonl"
    path.write_text("\n".join([json.dumps("x" * 1005)] * 130) + "\n")
    keys = [f"data.sft={path}", f"sft.packing={packing}", "sft.epochs=2", "stages=[sft]"]
    config, specs = small(*keys, "sft.max_length=128")
    assert plan(config, specs=specs).stages[0].duration.count == steps
    path.unlink()
    assert plan(config, specs=specs).stages[0].duration.count is None


def write_rankings(path, *ranks, families=("baichuan",)):
    """A record for each tuple of ranks, its responses of the families in turn."""
    rows = [
        {
            "id": str(number),
            "prompt": {"id": "p", "messages": [{"role": "user", "content": "q"}]},
            "responses": [
                {
                    "id": str(i),
                    "text": "t",
                    "provenance": {
                        "family": families[i % len(families)],
                        **{"model": "m", "size": "7b", "stage": "sft"},
                    },
                }
                for i in range(len(each))
            ],
            "ranks": each,
        }
        for number, each in enumerate(ranks)
    ]
    write_jsonl(path, map(RankingRecord.model_validate, rows))


def test_steps_of_given_rankings(tmp_path):
    """20 pairs, 20 rankings of three with three pairs each, 20 ties: 40 records that make 80 pairs.
    6 of the 60 are held out, a tenth, unless there is a file of these."""
    path = tmp_path / "rankings.jsonl"
    write_rankings(path, *[(1, 2)] * 20, *[(1, 2, 3)] * 20, *[(1, 1)] * 20)
    keys = ["annotation.source=file", f"data.rankings={path}", "data.held_out=0.1", "rounds=2"]
    keys += ["stages=[dpo, rm]", "rm.epochs=2", "rm.batch_size=8", "rm.microbatch_size=8"]
    keys += ["dpo={epochs: 1, batch_size: 16, microbatch_size: 16}"]

    def durations(*more):
        config, specs = small(*keys, *more)
        return [stage.duration for stage in plan(config, specs=specs).stages]

    dpo, rm = durations()
    assert (dpo.count, rm.count) == (2 * 5, 2 * 2 * 5)  # 72 pairs and 36 records
    dpo, rm = durations("data.rankings_eval=own.jsonl", "rounds=1", "rm.epochs=1")
    assert (dpo.count, rm.count) == (5, 5)  # 80 and 40
    write_rankings(path, *[(1, 2, 3, 4)] * 40)
    collected = durations("annotation.source=page", "collect.responses_per_prompt=4")[1]
    assert durations()[1].seconds == collected.seconds > rm.seconds
    write_rankings(path, *[(1, 2, 3)] * 40, families=("baichuan", "llama"))
    dpo, rm = durations("rm.data.off_family=drop", "rounds=1")
    assert (dpo.count, rm.count) == (3, 2 * 5)  # 36 of 40 records, of which one pair each is left
    path.unlink()
    assert [each.count for each in durations()] == [None, None]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_flops_of_ppo_are_those_that_a_run_counts(method):
    keys = ["iterations=5", "critic_warmup=2", "epochs=3", f"tuning.method={method}"]
    keys += ["roles=separate"]
    section = config_of(WHOLE, *(f"ppo.{key}" for key in keys)).ppo
    tokens = section.episodes * (section.max_prompt_tokens + section.sampling.max_new_tokens)
    trains = (number >= 2 for number in range(5))
    counted = sum(iteration_flops(1, tokens, section, train_actor=actor) for actor in trains)
    assert ppo_flops(section) == counted


def test_sft_goes_on_for_as_long_as_ppo_has_learnt():
    """Of 100 tokens in each of two iterations, of which one trains the critic alone: 10 forward
    passes of 2N and 3 training steps of 4N, which pay 533 tokens at 6N, in steps of 64."""
    keys = ["rollout_batch=1", "minibatch=1", "microbatch=1", "epochs=1", "iterations=2"]
    keys += [
        "max_prompt_tokens=60",
        "sampling.max_new_tokens=40",
        "critic_warmup=1",
        "responses_per_prompt=1",
    ]
    more = ["evaluate.extra_sft=true", "stages=[sft, evaluate]", "sft.batch_size=1", "rounds=2"]
    config, specs = small(*more, "sft.microbatch_size=1", *(f"ppo.{key}" for key in keys))
    sft, extra, evaluate = plan(config, specs=specs).stages
    assert (extra.name, evaluate.name) == ("evaluate/sft_extra", "evaluate")
    assert extra.duration.count == 100 * (2 * 10 + 3 * 4) // (6 * 64) == 8
    assert extra.duration.seconds == sft.duration.seconds
    assert extra.phases == sft.phases


def test_further_sft_is_made_smaller_as_sft_is():
    config = config_of(*TUNED, "stages=[sft, evaluate]", "evaluate.extra_sft=true")
    found = plan(config).options
    sft, extra = ([o for o in found if o.stage == name] for name in ("sft/main", EXTRA_SFT))
    assert [option.keys for option in extra] == [option.keys for option in sft] != []


def test_text_that_ppo_mixes_in_takes_time():
    """At least the operations of its tokens, 4N each under LoRA, in every step of the actor's."""

    def update(rows, gpus=1):
        text = f"{{data: text.jsonl, rows: {rows}, max_length: 512}}" if rows else "null"
        config, specs = small(f"ppo.pretraining={text}", "ppo.epochs=2")
        return ppo_parts(Setting(config, gpus=gpus, specs=specs), 16)[2]

    section = config_of(WHOLE).ppo
    tokens = 2 * section.episodes // section.minibatch * 16 * 512
    added = update(16) - update(0)
    assert added > 4 * tokens * weights(SMALL, "causal", None).multiplied / H100.product
    assert update(32) - update(0) == pytest.approx(2 * added)
    assert update(32, gpus=2) - update(0, gpus=2) == pytest.approx(added)  # 16 rows of each GPU


def test_every_epoch_updates_once_more_and_samples_and_scores_no_more():
    def parts(epochs):
        config, specs = small(f"ppo.epochs={epochs}")
        return ppo_parts(Setting(config, gpus=1, specs=specs), 16)

    (sampling, reading, update), three = parts(1), parts(3)
    assert three == (sampling, reading, pytest.approx(3 * update))


def test_text_that_ppo_mixes_in_takes_memory():
    """Logits of every token that follows another, of a microbatch of texts as of one of answers."""
    text = "ppo.pretraining={data: text.jsonl, rows: 16, max_length: 1025}"
    config, specs = small(text, "stages=[ppo]", "ppo.microbatch=8")
    answer = config.ppo.sampling.max_new_tokens

    def logits(gpus):
        phases = {
            p.name: p.of("logits") for p in plan(config, gpus=gpus, specs=specs).stages[0].phases
        }
        return phases["mixed text"], phases["actor's update"]

    mixed, answers = logits(1)
    assert mixed / answers == pytest.approx(1024 / answer, rel=0.01)
    mixed, answers = logits(8)  # two texts a GPU, and eight answers of 64
    assert mixed / answers == pytest.approx(2 / 8 * 1024 / answer, rel=0.01)
