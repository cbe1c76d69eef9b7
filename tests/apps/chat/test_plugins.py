from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from rlhf.apps.chat import plugins
from rlhf.apps.chat.plugins import Plugin, call, find, register, switches

CALCULATOR = plugins.REGISTRY["calculator"]
SEARCH = Plugin("Web search", "Search(query)", lambda query: f"\n<|1|>: {query!r}")


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "REGISTRY", dict(plugins.REGISTRY))


def test_switches_are_those_of_the_official_meta_instruction() -> None:
    assert switches([SEARCH, CALCULATOR]) == (
        "- Inner thoughts: enabled.\n"
        "- Web search: enabled. API: Search(query)\n"
        "- Calculator: enabled. API: Calculate(expression)\n"
        "- Equation solver: disabled.\n"
        "- Text-to-image: disabled.\n"
        "- Image edition: disabled.\n"
        "- Text-to-speech: disabled.\n"
    )
    assert "enabled" not in switches([])


def test_a_plugin_that_moss_does_not_know_gets_a_line_of_its_own() -> None:
    weather = Plugin("Weather", "Weather(city)", str)
    assert switches([weather]).endswith("disabled.\n- Weather: enabled. API: Weather(city)\n")


@pytest.mark.parametrize(
    ("commands", "results"),
    [
        ("None", "None"),
        ("None.", "None"),
        ("none", "None"),
        ('Calculate("6*7")', "Calculate(\"6*7\") => '42'"),
        ("Calculate(6*7)", "Calculate(6*7) => '42'"),
        ("Calculate（“6×7”）", "Calculate(\"6×7\") => '42'"),
        (
            'Calculate("1+1"), Search("moss")',
            "Calculate(\"1+1\") => '2'\nSearch(\"moss\") => \n<|1|>: 'moss'",
        ),
        (
            '1. Calculate("6/2")  # half\n2. Calculate("3!"),\n\nthen 3. Search("it")',
            "Calculate(\"6/2\") => '3'\nCalculate(\"3!\") => '6'\n"
            'then 3. Search("it") => error: not readable; write Name("argument")',
        ),
        (
            'Calculate(\n "1+1"\n),\nSearch("a"\n"b")',
            'Calculate(\n "1+1"\n) => \'2\'\nSearch("a"\n"b") => \n<|1|>: \'ab\'',
        ),
        (
            'Calculate("1+1")\nSearch("it")',
            "Calculate(\"1+1\") => '2'\nSearch(\"it\") => \n<|1|>: 'it'",
        ),
        ("# no call", '# no call => error: not readable; write Name("argument")'),
        ("1]+[2", '1]+[2 => error: not readable; write Name("argument")'),
        ('Calculate("1/0")', 'Calculate("1/0") => error: division by zero'),
        ('Solve("x=1")', 'Solve("x=1") => error: Solve is disabled'),
        ('Calculate("1"', 'Calculate("1" => error: not readable; write Name("argument")'),
        ('Calculate("1", 2)', 'Calculate("1", 2) => error: not readable; write Name("argument")'),
        ("print.x", 'print.x => error: not readable; write Name("argument")'),
        ("1)+(2", '1)+(2 => error: not readable; write Name("argument")'),
    ],
)
def test_call(commands: str, results: str) -> None:
    assert call(commands, [CALCULATOR, SEARCH]) == results


def test_call_is_bounded() -> None:
    longest = Plugin("Long", "Long(text)", lambda text: "x" * 10_000)
    results = 'Long("") => ' + "x" * 10_000
    assert call('Long("")', [longest]) == results[: plugins.RESULT_LIMIT]
    assert len(call("-\n" * 499, [longest])) == plugins.RESULT_LIMIT
    assert call("(" * 999, [longest]).endswith('write Name("argument")')
    assert call("-" * 10_000, [longest]) == "-" * plugins.RESULT_LIMIT + " => error: too long"


def test_a_long_result_hides_no_other() -> None:
    """Two long ones share what the calls and a short result leave of 2,000 characters."""
    echo = Plugin("Echo", "Say(text)", lambda text: text * 1000)
    said = 'Say("ab") => '
    # 2000 - (13 + 20 + 13) of the calls - 2 line ends - 4 of the short result = 2 * 974.
    results = f"{said}{'ab' * 487}\nCalculate(\"6*7\") => '42'\n{said}{'ab' * 487}"
    assert call('Say("ab"), Calculate("6*7"), Say("ab")', [echo, CALCULATOR]) == results
    assert len(results) == plugins.RESULT_LIMIT
    results = f'{said}{"ab" * 987}a\nSay("") => '  # all that an empty one leaves
    assert call('Say("ab"), Say("")', [echo]) == results
    assert len(results) == plugins.RESULT_LIMIT


def test_whatever_a_plugin_raises_is_read_to_moss() -> None:
    def offline(query: str) -> str:
        raise ConnectionError("no network")

    search = Plugin("Web search", "Search(query)", offline)
    assert call('Search("a")', [search]) == 'Search("a") => error: no network'


def test_register() -> None:
    with pytest.raises(ValueError, match="no such plugin; choose calculator, equation-solver"):
        find("search")
    register("search", SEARCH)
    assert find("search") is SEARCH


def test_an_installed_package_s_plugin_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("search", f"{__name__}:SEARCH", plugins.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: SEARCH)
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints([point]))
    assert find("search") is SEARCH
    with pytest.raises(ValueError, match="choose calculator, equation-solver, search"):
        find("seach")
