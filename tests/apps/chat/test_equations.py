from __future__ import annotations

import subprocess
import sys

import pytest

from rlhf.apps.chat import equations
from rlhf.apps.chat.equations import solve, solve_in_time


@pytest.mark.parametrize(
    ("text", "solutions"),
    [
        ("x^2-5x+6=0", "x = 2 or x = 3"),
        ("2x=1", "x = 1/2"),
        ("3(x-2) = x", "x = 3"),
        ("x+y=3, x-y=1", "x = 2, y = 1"),
        ("x+1＝2", "x = 1"),
        ("x²＋x－2＝0", "x = -2 or x = 1"),
        ("x^2=2", "x = -sqrt(2) ≈ -1.41421 or x = sqrt(2) ≈ 1.41421"),
        ("x^2+1", "x = -I or x = I"),
        ("2^x=8", "x = 3"),
        ("x+y=1", "x = 1 - y"),
        ("1+1=2", "true"),
        ("x=x+1", "false"),
        ("sqrt(x) = -1", "no solution found"),
    ],
)
def test_solutions(text: str, solutions: str) -> None:
    assert solve(text) == solutions


def test_roots_without_a_short_formula_are_given_as_numbers() -> None:
    """x^3-3x+1 has the roots 2 cos(2 pi k / 9) for k = 1, 2, 4."""
    assert solve("x^3-3x+1=0") == "x ≈ 0.347296 or x ≈ 1.53209 or x ≈ -1.87939"
    assert solve("x^5-x-1=0").startswith("x ≈ 1.16730 or ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "one to 4 equations"),
        ("a+b+c+d+f=1", "one to 4 equations"),
        ("x=1=2", "one equals sign"),
        ("x^99=1", "exponents"),
        ("9^9^9^9=x", "exponents"),
        ("x=cos(x)", "no way"),
        ("x.__class__=1", "not part of an expression"),
        ("__import__('os')=1", "not part of an expression"),
    ],
)
def test_what_it_cannot_solve(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        solve(text)


def test_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equations, "PATIENCE", 12)  # however busy the machine is
    assert solve_in_time("2x＝6") == "x = 3"
    with pytest.raises(ValueError, match="^one equals sign an equation$"):
        solve_in_time("x=1=2")


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, and before that by what the processor spends: the kernel ends the process."""

    def run(*args: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    with monkeypatch.context() as patched, pytest.raises(ValueError, match="within 10 seconds"):
        patched.setattr(subprocess, "run", run)
        solve_in_time("x=1")
    child = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 2))\nwhile True: pass"
    ended = subprocess.run([sys.executable, "-c", child])
    assert ended.returncode == equations.OUT_OF_TIME
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: ended)
    with pytest.raises(ValueError, match="within 10 seconds"):
        solve_in_time("x=1")
