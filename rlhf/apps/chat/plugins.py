"""Plugins of MOSS-003: which there are, how its meta instruction names them, and calling them.

A plugin of your own is registered from Python, or by an installed package's entry point in the
group `rlhf.plugins`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from rlhf.apps.chat.calculator import calculate_quoted
from rlhf.apps.chat.equations import solve_in_time
from rlhf.models.moss.prompts import UNUSED

GROUP = "rlhf.plugins"
# In the order in which MOSS's meta instruction names them.
TITLES = (
    "Web search",
    "Calculator",
    "Equation solver",
    "Text-to-image",
    "Image edition",
    "Text-to-speech",
)
COMMANDS_LIMIT = 1000
RESULT_LIMIT = 2000
NUMBER = re.compile(r"^\s*\d+[.)、]\s*(?=[A-Za-z_])")
AS_IN_PYTHON = {0x201C: '"', 0x201D: '"', 0xFF08: "(", 0xFF09: ")", 0xFF0C: ","}
UNREADABLE = 'not readable; write Name("argument")'


@dataclass(frozen=True)
class Plugin:
    """title: its line in the meta instruction, such as "Web search"; a title that MOSS does not
        know gets a line of its own.
    api: how MOSS is to call it, such as "Search(query)".
    run: takes what stands between the quotes, gives what MOSS is to read. What it raises MOSS reads
        as well.
    """

    title: str
    api: str
    run: Callable[[str], str]

    @property
    def function(self) -> str:
        """The name that a command calls."""
        return self.api.partition("(")[0]


REGISTRY: dict[str, Plugin] = {
    "calculator": Plugin("Calculator", "Calculate(expression)", calculate_quoted),
    "equation-solver": Plugin("Equation solver", "Solve(equation)", solve_in_time),
}


def register(name: str, plugin: Plugin) -> None:
    """Makes a plugin known as `name`, in place of the one of that name if there is one."""
    REGISTRY[name] = plugin


def find(name: str) -> Plugin:
    """A registered plugin, or one of an installed package; ValueError with the names there are."""
    installed = entry_points(group=GROUP)
    if name not in REGISTRY and name in installed.names:
        register(name, installed[name].load())
    if name not in REGISTRY:
        names = sorted({*REGISTRY, *installed.names})
        raise ValueError(f"--plugin {name}: no such plugin; choose {', '.join(names)}")
    return REGISTRY[name]


def switches(plugins: Sequence[Plugin]) -> str:
    """The end of the meta instruction, where these plugins are enabled and all others disabled."""
    on = {plugin.title: plugin for plugin in plugins}
    lines = [f"- Inner thoughts: {'enabled' if plugins else 'disabled'}."]
    for title in dict.fromkeys([*TITLES, *on]):
        state = f"enabled. API: {on[title].api}" if title in on else "disabled."
        lines.append(f"- {title}: {state}")
    return "\n".join(lines) + "\n"


def call(commands: str, plugins: Sequence[Plugin]) -> str:
    """What goes between `<|Results|>:` and `<eor>` for MOSS's commands, such as `Solve("x=1")`.

    Nothing that is written there raises: MOSS reads what was wrong, and goes on.
    """
    if commands.strip(" .。").lower() == UNUSED.lower():
        return UNUSED
    if len(commands) > COMMANDS_LIMIT:
        return f"{commands[:RESULT_LIMIT]} => error: too long"
    functions = {plugin.function: plugin.run for plugin in plugins}
    found = [each for part in _parts(commands) for each in _results(part, functions)]
    asked = [f"{written} => " for written, _ in found]
    room = RESULT_LIMIT - len("\n".join(asked))
    results = _cut([result for _, result in found], max(0, room))
    lines = [before + result for before, result in zip(asked, results, strict=True)]
    # Lines that are no calls may be too many even so.
    return "\n".join(lines)[:RESULT_LIMIT] or f"{commands} => error: {UNREADABLE}"


def _cut(results: list[str], room: int) -> list[str]:
    """What together finds room: short ones whole, and equally much of each of the others."""
    for place, length in enumerate(sorted(map(len, results))):
        share = room // (len(results) - place)
        if length > share:
            return [result[:share] for result in results]
        room -= length
    return results


def _parts(commands: str) -> list[str]:
    """The whole where it can be read, as a call may go on over several lines; else its lines."""
    try:
        _parse(commands)
    except ValueError:
        return commands.splitlines()
    return [commands]


def _results(text: str, functions: dict[str, Callable[[str], str]]) -> list[tuple[str, str]]:
    """Each call as it is written, and what came of it."""
    try:
        calls = _parse(text)
    except ValueError as error:
        return [(text, f"error: {error}")]
    return [(written, _run(functions, *rest)) for written, *rest in calls]


def _parse(commands: str) -> list[tuple[str, str, str]]:
    """Each call as it is written, its function's name and its argument, by Python's own grammar,
    comments too. MOSS numbers its lines at times."""
    text = NUMBER.sub("", commands).translate(AS_IN_PYTHON)
    whole = f"[{text}\n]"
    try:
        body = ast.parse(whole, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(UNREADABLE) from None
    calls = []
    for node in body.elts if isinstance(body, ast.List) else [body]:
        match node:
            case ast.Call(ast.Name(name), [argument], []):
                source, given = (ast.get_source_segment(whole, each) for each in (node, argument))
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    given = argument.value
                calls.append((str(source), name, str(given)))
            case _:
                raise ValueError(UNREADABLE)
    return calls


def _run(functions: dict[str, Callable[[str], str]], name: str, argument: str) -> str:
    if name not in functions:
        return f"error: {name} is disabled"
    try:
        return functions[name](argument)[:RESULT_LIMIT]
    except Exception as error:  # whatever a plugin of the user's raises ends no conversation
        return f"error: {error}"
