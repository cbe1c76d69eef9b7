"""MOSS's equation solver: sympy, in a process of its own that time and memory bound.

sympy comes with torch. Its own parser runs Python, so the equations are read by `expressions`.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlhf.apps.chat.expressions import Arithmetic, evaluate, normalised

SECONDS = 10
PATIENCE = 6  # times as long by the clock, on a machine that is busy with other things
MEMORY_LIMIT = 2 << 30
UNKNOWNS_LIMIT = 4
EXPONENT_LIMIT = 12
DIGITS = 6
SHORT = 40
OUT_OF_TIME = -getattr(signal, "SIGXCPU", 0)


def solve_in_time(equations: str) -> str:
    """What `solve` gives; ValueError also when it takes a processor for longer than SECONDS, or too
    much memory."""
    too_long = ValueError(f"not solved within {SECONDS} seconds")
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=normalised(equations),
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE * SECONDS,
            cwd=Path(__file__).parents[3],  # where this package is found, installed or not
        )
    except subprocess.TimeoutExpired:
        raise too_long from None
    if done.returncode == OUT_OF_TIME:
        raise too_long
    if done.returncode:
        raise ValueError(done.stderr.strip() if done.returncode == 2 else "not solved")
    return done.stdout.strip()


def solve(equations: str) -> str:
    """All solutions of one equation, or of several with commas between, as text.

    An expression without an equals sign is one side, and zero the other. Raises ValueError for
    what is no equation, and where sympy knows no way.
    """
    import sympy

    written = [part for part in re.split(r"[,;\n]", normalised(equations)) if part.strip()]
    zeros = [_left_minus_right(part) for part in written]
    unknowns = sorted({each for zero in zeros for each in zero.free_symbols}, key=str)
    if not zeros or max(len(zeros), len(unknowns)) > UNKNOWNS_LIMIT:
        raise ValueError(f"write one to {UNKNOWNS_LIMIT} equations in as many unknowns")
    if not unknowns:
        return "true" if all(sympy.simplify(zero) == 0 for zero in zeros) else "false"
    try:
        # A list of one would lose the roots that have no formula.
        solutions = sympy.solve(zeros if len(zeros) > 1 else zeros[0], unknowns, dict=True)
    except NotImplementedError:
        raise ValueError("no way to solve this is known") from None
    found = [
        ", ".join(_written(unknown, value) for unknown, value in solution.items())
        for solution in solutions
    ]
    return " or ".join(found) or "no solution found"


def _left_minus_right(equation: str) -> Any:
    import sympy

    functions = {name: getattr(sympy, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tan")}
    arithmetic = Arithmetic(
        number=sympy.Rational,
        name=lambda name: sympy.pi if name in ("pi", "π") else sympy.Symbol(name),
        functions=functions | {"abs": sympy.Abs, "ln": sympy.log},
        power=_power,
    )
    sides = [evaluate(side, arithmetic) for side in equation.split("=")]
    if len(sides) > 2:
        raise ValueError("one equals sign an equation")
    return sides[0] - sides[1] if len(sides) == 2 else sides[0]


def _power(base: Any, exponent: Any) -> Any:
    if exponent.is_number and abs(exponent) > EXPONENT_LIMIT:
        raise ValueError(f"exponents go up to {EXPONENT_LIMIT}")
    return base**exponent


def _written(unknown: Any, value: Any) -> str:
    """Exactly, and what that is about where it is no fraction; long roots only about."""
    exact = f"{unknown} = {value}"
    if value.free_symbols or all(part.is_rational for part in value.as_real_imag()):
        return exact
    about = f"≈ {value.evalf(DIGITS, chop=True)}"
    short = len(exact) <= SHORT and "CRootOf" not in exact  # a root that has no formula
    return f"{exact} {about}" if short else f"{unknown} {about}"


def main() -> None:
    """Reads equations from the standard input; exit code 2 and a reason when they are at fault."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        print(solve(sys.stdin.read()))
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
