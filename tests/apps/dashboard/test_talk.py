from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.apps.chat.command import Sampling
from rlhf.apps.dashboard.runs import Run
from rlhf.apps.dashboard.talk import Speakers, checkpoints, first_two
from rlhf.data.records import Message
from tests.apps.dashboard.worlds import make_run, stage


@pytest.fixture
def run(tmp_path: Path, checkpoint: Callable[..., Path]) -> Run:
    root = make_run(tmp_path / "a")
    model = checkpoint("baichuan2-7b")
    for place in ("sft/main", "rounds/1/ppo/actor", "ppo/actor"):
        shutil.copytree(model, root / place, dirs_exist_ok=True)
    (root / "rm/config.json").write_text('{"architectures": ["XForSequenceClassification"]}')
    return Run("a", root)


def test_language_models_that_are_whole(run: Run) -> None:
    assert list(checkpoints(run)) == ["sft/main", "rounds/1/ppo/actor", "ppo/actor"]
    (run.root / "ppo/manifest.json").write_text(json.dumps(stage("ppo", "running")))
    assert list(checkpoints(run)) == ["sft/main", "rounds/1/ppo/actor"]


def test_sft_and_the_last_ppo_stand_side_by_side() -> None:
    names = ["a: sft/large", "a: sft/main", "a: rounds/1/ppo/actor", "a: ppo/actor", "a: dpo"]
    assert first_two([names]) == ("a: sft/main", "a: ppo/actor")
    assert first_two([["sft/main"]]) == ("sft/main", None)
    assert first_two([[], []]) == (None, None)


def test_both_are_of_the_newest_run_that_has_both() -> None:
    runs = [[f"{name}: sft/main", f"{name}: ppo/actor"] for name in "ba"]
    runs += [["d: ppo/actor"], ["c: sft/main"]]
    assert first_two(runs) == ("a: sft/main", "a: ppo/actor")
    assert first_two(runs[2:]) == ("c: sft/main", "d: ppo/actor")


def test_two_models_answer_and_only_those_asked_last_stay(run: Run) -> None:
    found, speakers = checkpoints(run), Speakers()
    models = [found["sft/main"], found["ppo/actor"]]
    how = Sampling(temperature=0, max_new_tokens=4)
    said = [[], [Message(role="user", content="x"), Message(role="assistant", content="y")]]
    assert speakers.loaded == []
    grown = list(speakers.ask(models, said, "a", how))
    assert [turn.content for turn in grown[0][0]] == ["a", "…"]
    assert [[turn.role for turn in talk] for talk in grown[-1]] == [
        ["user", "assistant"],
        ["user", "assistant", "user", "assistant"],
    ]
    assert speakers.loaded == models
    list(speakers.ask(models[:1], [[]], "a", how))
    assert speakers.loaded == models[:1]
    speakers.release()
    assert speakers.loaded == []


def test_an_answer_that_is_broken_off_lets_others_ask(run: Run) -> None:
    model, speakers = checkpoints(run)["sft/main"], Speakers()
    asked = speakers.ask([model], [[]], "a", Sampling(max_new_tokens=4))
    next(asked)
    next(asked)
    asked.close()
    speakers.release()
    assert speakers.loaded == []


def test_models_are_let_go_when_nobody_asks(run: Run) -> None:
    speakers = Speakers(idle=0)
    model = checkpoints(run)["sft/main"]
    list(speakers.ask([model], [[]], "a", Sampling(max_new_tokens=2)))
    assert speakers.timer is not None
    speakers.timer.join(timeout=60)
    assert speakers.loaded == []
