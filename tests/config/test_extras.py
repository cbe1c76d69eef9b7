from __future__ import annotations

import sys

import pytest

from rlhf.config.extras import main


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["tiny"], ""),
        (["--set", "rm.tuning.method=qlora", "tiny", "--from", "rm"], "gpu"),
        (["tiny", "--set", "ppo.critic_optimiser.kind=adamw-8bit"], "gpu"),
        (["tiny", "--set", "dpo.tuning.method=qlora"], "gpu"),
        (["tiny", "--set", "dpo={}"], ""),
        (["--nproc", "2", "tiny", "--set", "runtime.deepspeed=zero2"], "deepspeed"),
        (["tiny", "--set", "runtime.deepspeed=zero3", "--rehearse"], "deepspeed"),
        (["tiny", "--set", "rm.tuning.method=qlora", "--rehearse"], ""),
        (["tiny", "--set", "capabilities={}", "--rehearse"], "capabilities"),
        (["tiny", "--set", "no.such.key=1"], ""),
        (["absent.yaml"], ""),
        (["tiny", "--set"], ""),
        (["--help"], ""),
        ([], ""),
    ],
)
def test_extras_that_a_run_needs(arguments, printed, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["extras", *arguments])
    main()
    captured = capsys.readouterr()
    assert (captured.out.strip(), captured.err) == (printed, "")
