"""Two processes against one, with the same global batch: the same numbers, and one set of files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from rlhf.runtime import checkpoint
from rlhf.runtime.metrics import read_rows
from tests.checkpoints import write_checkpoint
from tests.models.test_roles import adapter_on
from tests.ppo.two_processes import Weights, everything, process, run, spread


@dataclass
class Found:
    """What came of it: in one process, and in each of two."""

    folder: Path
    one: dict[str, Any]
    two: list[dict[str, Any]]

    def rows(self, run: str) -> list[list[dict[str, float]]]:
        """The metrics of a run by one process and by two."""
        return [read_rows(self.folder / by / run / "metrics.jsonl") for by in ("one", "two")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, pieces: Callable[[int], bytes]) -> Found:
    folder = tmp_path_factory.mktemp("processes")
    one, two = folder / "one", folder / "two"
    for side in (one, two):
        side.mkdir()
    adapter_on(write_checkpoint(folder / "sft", "baichuan2-7b", pieces), folder / "rm")
    alone = everything(one)
    shutil.copytree(one / "cut", two / "begun_by_one")
    shutil.copytree(one / "zero3 cut", two / "begun_whole")
    mp.start_processes(process, (2, two), nprocs=2, start_method="forkserver")
    together = [torch.load(two / f"found-{n}", weights_only=False) for n in range(2)]
    return Found(folder, alone, together)


@pytest.mark.parametrize(
    "run", ["whole", "rollback", "zero2", "zero3", "shared/run/ppo", "separate/run/ppo"]
)
def test_metrics_are_those_of_one_process(found: Found, run: str) -> None:
    alone, together = found.rows(run)
    assert len(together) == len(alone) > 2
    for expected, row in zip(alone, together, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_rollout_and_experience_are_those_of_one_process(found: Found) -> None:
    alone = found.one["gradients"]
    for one_of_two in found.two:
        together = one_of_two["gradients"]
        assert together["tokens"] == alone["tokens"]
        assert len({len(tokens) for tokens in alone["tokens"]}) > 2  # some end early
        for name in ("scores", "kl", "rewards", "advantages", "returns"):
            expected = alone["experience"][name]
            torch.testing.assert_close(together["experience"][name], expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_one_process(found: Found) -> None:
    """Their norm is bound, so this holds the bound to be on the sum, too."""
    alone, one_of_two, other = (part["gradients"] for part in (found.one, *found.two))
    for expected, gradient, same in zip(
        *(part["gradients"] for part in (alone, one_of_two, other)), strict=True
    ):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
        assert torch.equal(gradient, same)
    assert one_of_two["statistics"] == pytest.approx(alone["statistics"], rel=1e-5, abs=1e-6)


def _close(weights: Weights, expected: Weights) -> None:
    """As a whole, for Adam makes a step of an element's gradient that is nothing but rounding."""
    for role in ("actor", "critic"):
        for name, tensor in expected[role].items():
            assert (weights[role][name] - tensor).norm() <= 1e-4 * tensor.norm(), name


def test_processes_end_with_the_same_weights(found: Found) -> None:
    for name in ("whole", "rollback"):
        _close(found.two[0][name], found.one[name])
        for role, weights in found.two[0][name].items():
            assert all(torch.equal(w, found.two[1][name][role][n]) for n, w in weights.items())


def test_what_one_began_two_finish_and_the_reverse(found: Found) -> None:
    _close(found.two[0]["begun by one"], found.one["whole"])
    _close(run(found.folder / "two" / "cut"), found.one["whole"])


def test_each_encodes_a_part_of_the_texts_and_all_hold_the_same(found: Found) -> None:
    """Of five in turns of four, and of two where one is alone, the first gets 2 and 0."""
    texts, encoded = found.one["texts"]
    said = ["one", "two", "three", "fourth", "five"]
    assert texts == [[*map(ord, text), 2][:5] for text in said] and encoded == 5
    assert [one_of_two["texts"] for one_of_two in found.two] == [(texts, 2), (texts, 3)]


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_spread_weights_learn_as_whole_ones(found: Found, stage: str) -> None:
    _close(found.two[0][stage], found.one[stage])


def test_in_bfloat16_spread_weights_learn_up_to_its_noise(found: Found) -> None:
    """Two iterations, until one answer differs in a token; the weights after all three."""
    alone, together = found.rows("half zero3")
    for expected, row in zip(alone[:2], together[:2], strict=True):
        assert row["response_length"] == expected["response_length"] and row["kl"] < 1e-3
        for name in ("score", "value_loss", "grad_norm", "critic_grad_norm", "pretraining_loss"):
            assert row[name] == pytest.approx(expected[name], rel=0.02), name
    for role, weights in found.one["half zero3"].items():
        for name, tensor in weights.items():
            off = found.two[0]["half zero3"][role][name].float() - tensor.float()
            assert tensor.dtype == torch.bfloat16 and off.norm() <= 0.02 * tensor.float().norm()


def test_what_one_began_whole_two_finish_spread_and_the_reverse(found: Found) -> None:
    _close(found.two[0]["begun whole"], found.one["zero3"])
    _close(spread(found.folder / "two" / "zero3 cut", 3), found.one["zero3"])


def test_an_adapter_on_spread_weights_is_saved_as_on_whole_ones(found: Found) -> None:
    assert found.two[0]["adapter"] == found.one["adapter"] != []


def test_a_process_without_answers_to_give_waits_for_none(found: Found) -> None:
    alone, (first, last) = found.one["early"], (part["early"] for part in found.two)
    assert first["sums"] == pytest.approx(alone["sums"]) and last["sums"] == []
    for part in (first, last):
        assert 0.4 < part["kept"] < 0.6
        torch.testing.assert_close(part["after"], alone["after"], rtol=1e-5, atol=1e-5)


def test_ctrl_c_in_one_process_stops_all_after_the_same_iteration(found: Found) -> None:
    assert [part["ctrl_c"] for part in found.two] == [["step-000003"]] * 2
    alone, together = found.rows("ctrl_c")
    newest = checkpoint.latest(found.folder / "two" / "ctrl_c" / "checkpoints")
    assert newest is not None and checkpoint.step_of(newest) == len(together) == len(alone)


def test_nan_in_one_process_stops_all_with_the_batch_saved(found: Found) -> None:
    messages = [part["nan"] for part in found.two]
    assert messages[0] == messages[1] and "stopped before the optimiser step" in messages[0]
    assert (found.folder / "two" / "nan" / "refused_minibatch.safetensors").is_file()


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_stage_leaves_one_set_of_files(found: Found, kind: str) -> None:
    alone, together = (
        {path.relative_to(found.folder / by) for path in (found.folder / by / kind).rglob("*")}
        for by in ("one", "two")
    )
    assert together == alone and Path(kind, "run/ppo/actor/model.safetensors") in alone
