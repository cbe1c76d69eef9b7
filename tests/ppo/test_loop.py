from __future__ import annotations

import logging
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import PPOSection
from rlhf.ppo import NonFinite, Stopped, Trained, batching, train
from rlhf.ppo.state import TrainingState
from rlhf.runtime.metrics import MetricsLog, read_rows
from tests.ppo.conftest import both_rates, ppo_section
from tests.ppo.fakes import FakeRoles, count_of

PROMPTS = [[3, 4, 5], [6], [7, 8], [9, 10, 11, 12], [13, 14], [5, 5, 5], [3, 3], [4, 7, 4]]


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def _train(
    roles: FakeRoles,
    section: PPOSection,
    directory: Path,
    prompts: list[list[int]] = PROMPTS,
    interrupt_at: int | None = None,
) -> Trained:
    def on_iteration(done: int, total: int, shown: dict[str, float]) -> None:
        assert total == section.iterations and set(shown) == {"score", "kl", "response_length"}
        if done == interrupt_at:
            raise Interrupt

    with MetricsLog(directory) as metrics:
        return train(
            roles,
            prompts,
            section,
            score_statistics=(None, None),
            output_dir=directory,
            seed=3,
            metrics=metrics,
            pretraining=PROMPTS,
            on_iteration=on_iteration,
        )


def _weights(roles: FakeRoles) -> dict[str, torch.Tensor]:
    return {
        **{f"actor.{name}": tensor for name, tensor in roles.actor_state().items()},
        **{f"critic.{name}": tensor for name, tensor in roles.critic_state().items()},
    }


RESUMED: dict[str, Any] = {
    "iterations": 7,
    "epochs": 2,
    "critic_warmup": 2,
    "checkpoint_every": 2,
    "kl": {"initial": 0.1, "schedule": "adaptive", "target": 0.5, "horizon": 100},
    "score": {"normalisation": "running"},
    "ema_decay": 0.9,
    "pretraining": {"data": "texts.jsonl", "rows": 3},
    "actor_optimiser": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 3},
}


@pytest.mark.parametrize("interrupt_at", [1, 3, 4, 6])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, interrupt_at: int
) -> None:
    section = ppo_section(**RESUMED)
    whole = FakeRoles(count_of(5))
    expected = _train(whole, section, tmp_path / "whole")

    with pytest.raises(Interrupt):
        _train(FakeRoles(count_of(5)), section, tmp_path / "cut", interrupt_at=interrupt_at)
    torch.rand(5)  # another process has another state of the global generators
    resumed = FakeRoles(count_of(5))
    trained = _train(resumed, section, tmp_path / "cut")

    assert trained.summary == expected.summary
    averages, found = expected.averaged_actor, trained.averaged_actor
    assert averages is not None and found is not None
    assert all(torch.equal(average, found[name]) for name, average in averages.items())
    assert not all(
        torch.equal(average, resumed.actor_state()[name]) for name, average in found.items()
    )
    after = _weights(resumed)
    assert all(torch.equal(tensor, after[name]) for name, tensor in _weights(whole).items())
    rows = read_rows(tmp_path / "cut" / "metrics.jsonl")
    assert rows == read_rows(tmp_path / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))


def test_rows_are_on_the_disk_before_a_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(MetricsLog, "sync", lambda log: order.append("rows"))
    monkeypatch.setattr(TrainingState, "save", lambda *_: order.append("checkpoint"))
    _train(FakeRoles(count_of(5)), ppo_section(iterations=3, checkpoint_every=2), tmp_path)
    assert order == ["rows", "checkpoint", "rows", "checkpoint", "rows"]  # the last: it is closed


def test_ctrl_c_saves_at_the_end_of_the_iteration(tmp_path: Path) -> None:
    section = ppo_section(**{**RESUMED, "checkpoint_every": 100})
    whole, cut, resumed = (FakeRoles(count_of(5)) for _ in range(3))
    _train(whole, section, tmp_path / "whole")
    asked = []

    def score(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        asked.append(len(asked))
        if len(asked) == 15:  # in the third iteration, which asks six times
            signal.raise_signal(signal.SIGINT)
        return count_of(5)(input_ids, attention_mask)

    cut.score = score
    with pytest.raises(KeyboardInterrupt):
        _train(cut, section, tmp_path / "cut")
    assert [row["step"] for row in read_rows(tmp_path / "cut" / "metrics.jsonl")] == [0, 1, 2]
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-000003"]
    _train(resumed, section, tmp_path / "cut")
    after = _weights(resumed)
    assert all(torch.equal(tensor, after[name]) for name, tensor in _weights(whole).items())


def test_ctrl_c_while_the_last_iteration_is_saved_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, save = ppo_section(iterations=2), TrainingState.save

    def interrupted(state: TrainingState, *given: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        save(state, *given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TrainingState, "save", interrupted)
        _train(FakeRoles(count_of(5)), section, tmp_path)
    assert _train(FakeRoles(count_of(5)), section, tmp_path).summary.iterations == 2
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    section = ppo_section(iterations=2)
    expected = _train(FakeRoles(count_of(5)), section, tmp_path)
    again = FakeRoles(count_of(5))
    assert _train(again, section, tmp_path, interrupt_at=1) == expected


def test_metrics_say_what_happened(roles: FakeRoles, tmp_path: Path) -> None:
    section = ppo_section(
        iterations=4, critic_warmup=2, epochs=2, kl={"initial": 0.3, "final": 0.0}
    )
    start = roles.actor_state()
    fingerprint = roles.frozen_fingerprint()
    summary = _train(roles, section, tmp_path, [*PROMPTS, list(range(3, 15))]).summary
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["kl_coef"] for row in rows] == pytest.approx([0.3, 0.2, 0.1, 0.0])
    assert [row["kl"] == 0 for row in rows] == [True, True, True, False]  # after the warm-up
    assert [row["policy_loss"] == 0 for row in rows] == [True, True, False, False]
    assert all(row["ratio_deviation"] == 0 for row in rows)
    assert all(row["engine_gap_largest"] < 1e-4 for row in rows)
    assert roles.frozen_fingerprint() == fingerprint
    assert any(not torch.equal(w, start[name]) for name, w in roles.actor_state().items())
    assert (summary.iterations, summary.prompts_dropped) == (4, 1)
    assert summary.score_first == rows[0]["score"] and summary.kl_last == rows[-1]["kl"]
    assert summary.flops > 0


def test_an_adaptive_coefficient_waits_for_the_actor(roles: FakeRoles, tmp_path: Path) -> None:
    """While the critic warms up the KL is 0 of necessity: no reason to loosen the penalty."""
    kl = {"initial": 0.3, "schedule": "adaptive", "target": 1.0, "horizon": 60}
    _train(roles, ppo_section(iterations=4, critic_warmup=2, kl=kl), tmp_path)
    coefficients = [row["kl_coef"] for row in read_rows(tmp_path / "metrics.jsonl")]
    # The first iteration that trains the actor is measured before it has moved: 0, held to -0.2.
    assert coefficients == pytest.approx([0.3, 0.3, 0.3, 0.3 * (1 - 0.2 * 6 / 60)])


def test_the_adaptive_coefficient_counts_every_response(roles: FakeRoles, tmp_path: Path) -> None:
    kl = {"initial": 0.3, "schedule": "adaptive", "target": 1.0, "horizon": 60}
    _train(roles, ppo_section(iterations=2, responses_per_prompt=2, kl=kl), tmp_path)
    coefficients = [row["kl_coef"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert coefficients == pytest.approx([0.3, 0.3 * (1 - 0.2 * 12 / 60)])


def test_the_actors_schedule_leaves_the_warm_up_out(roles: FakeRoles) -> None:
    """The last step of a linear schedule is as long as the rate over the number of steps."""
    section = ppo_section(
        iterations=6, epochs=2, critic_warmup=2, **both_rates(0.24, schedule="linear")
    )
    state = TrainingState.start(roles, section, (None, None))
    for learner, steps in ((state.actor, 4 * 2 * 2), (state.critic, 6 * 2 * 2)):
        learner.taken = steps - 1
        learner.step()
        (group,) = learner.state()["optimiser"]["param_groups"]
        assert group["lr"] == pytest.approx(0.24 / steps)


def test_seed_and_iteration_reach_every_generator(
    roles: FakeRoles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str, int]] = []

    def note(seed: int, purpose: str, index: int) -> torch.Generator:
        asked.append((seed, purpose, index))
        return batching.generator(seed, purpose, index)

    monkeypatch.setattr("rlhf.ppo.loop.generator", note)
    _train(roles, ppo_section(iterations=2), tmp_path)
    assert asked == [(3, purpose, i) for i in (0, 1) for purpose in ("sampling", "minibatches")]


def test_engine_logprobs_are_compared_while_the_critic_warms_up(
    roles: FakeRoles, tmp_path: Path
) -> None:
    """No step of the actor's has a forward to compare them with by then."""
    section = ppo_section(iterations=2, critic_warmup=1, old_logprobs="engine")
    _train(roles, section, tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert ["engine_gap_largest" in row for row in rows] == [True, False]


def test_plain_engine_and_gradient_checkpointing_train_as_well(tmp_path: Path) -> None:
    greedy = {"sampling": {"max_new_tokens": 5, "temperature": 0}, "iterations": 3}
    results = []
    for options in ({}, {"engine": "plain"}, {"gradient_checkpointing": True}):
        roles = FakeRoles(count_of(5))
        _train(roles, ppo_section(**greedy, **options), tmp_path / str(len(results)))
        results.append(_weights(roles))
    for other in results[1:]:
        for name, tensor in results[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-4)


def test_an_alarm_warns_or_stops(
    roles: FakeRoles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitors = {"eos_rate": {"low": 1.0}, "entropy": None, "explained_variance": None}
    with caplog.at_level(logging.WARNING):
        _train(roles, ppo_section(iterations=2, monitors=monitors), tmp_path / "warn")
    assert "past ppo.monitors.eos_rate.low = 1" in caplog.text
    assert caplog.text.count("eos_rate") == 2  # said once, not at every iteration
    rows = read_rows(tmp_path / "warn" / "metrics.jsonl")
    assert [row["alarms"] for row in rows] == [1, 1]
    with pytest.raises(Stopped, match="ppo iteration 1: eos_rate"):
        stop = {**monitors, "eos_rate": {"low": 1.0, "action": "stop"}}
        _train(roles, ppo_section(monitors=stop), tmp_path / "stop")


def test_a_reference_that_changes_is_noticed(tmp_path: Path) -> None:
    roles = FakeRoles(count_of(5))

    def meddling(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        roles.reference.lm_head.weight.data[0, 0] += 1e-3
        return count_of(5)(input_ids, attention_mask)

    roles.score = meddling
    with pytest.raises(AssertionError, match="reference or reward model has changed"):
        _train(roles, ppo_section(iterations=1), tmp_path)


def test_scores_that_are_nan_stop_the_run(tmp_path: Path) -> None:
    roles = FakeRoles(lambda ids, mask: torch.full((len(ids),), math.nan))
    with pytest.raises(NonFinite):
        _train(roles, ppo_section(), tmp_path)
    assert (tmp_path / "refused_minibatch.safetensors").is_file()
