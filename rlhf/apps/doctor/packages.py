"""Python and the installed packages, against what this project asks for and is tested with.

Nothing heavy is imported here: a package that is missing has to be told, not to be a traceback.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from rlhf.apps.doctor.finding import Finding
from rlhf.config.paths import resource

DISTRIBUTION = "baichuan-rlhf"
DEVELOPMENT = "dev"
"""The one extra that no run needs."""


class Wanted(NamedTuple):
    """python: the versions allowed. always: what every run needs. extras: the rest, by extra."""

    python: SpecifierSet
    always: list[Requirement]
    extras: dict[str, list[Requirement]]


def wanted() -> Wanted:
    """From pyproject.toml in a checkout, else from what was installed with the wheel."""
    try:
        text = resource("pyproject.toml").read_text(encoding="utf-8")
    except ValueError:
        return _installed()
    project = tomllib.loads(text)["project"]
    extras = {
        name: [Requirement(line) for line in lines]
        for name, lines in project["optional-dependencies"].items()
    }
    always = [Requirement(line) for line in project["dependencies"]]
    return Wanted(SpecifierSet(project["requires-python"]), always, extras)


def tested() -> dict[str, str]:
    """The pinned versions by package; empty outside a checkout."""
    try:
        lines = resource("constraints.txt").read_text(encoding="utf-8").splitlines()
    except ValueError:
        return {}
    pins = (line.partition("==") for line in lines if not line.startswith("#"))
    return {name: version for name, equals, version in pins if equals}


def check(wanted: Wanted, tested: dict[str, str]) -> Iterator[Finding]:
    """Python, what every run needs, and what is installed of the extras."""
    python = platform.python_version()
    if python in wanted.python:
        yield Finding("ok", "python", python)
    else:
        yield Finding("fault", "python", f"{python}; use one that is {wanted.python}")
    unmet = lacking(wanted.always)
    for problem in unmet:
        yield Finding("fault", "packages", problem)
    if not unmet:
        yield _against(wanted.always, tested)
    extras = {name: lines for name, lines in wanted.extras.items() if name != DEVELOPMENT}
    there = [name for name, lines in extras.items() if not lacking(lines)]
    absent = [name for name in extras if name not in there]
    text = f"installed: {', '.join(there) or 'none'}"
    if absent:
        mend = f"pip install '{DISTRIBUTION}[{absent[0]}]'"
        text += f"; not: {', '.join(absent)} (when you need one: {mend})"
    yield Finding("ok", "extras", text)


def needed(extras: list[str], wanted: Wanted) -> Iterator[Finding]:
    """The extras that a config needs."""
    for name in extras:
        problems = lacking(wanted.extras[name])
        for problem in problems:
            yield Finding("fault", f"extra {name}", f"this config needs it: {problem}")
        if not problems:
            yield Finding("ok", f"extra {name}", "this config needs it, and it is installed")


def lacking(requirements: list[Requirement]) -> list[str]:
    """What is missing or of the wrong version, each with its mend."""
    found = []
    for each in requirements:
        version = _version(each.name)
        if version is None:
            found.append(f"{each.name} is missing; pip install '{each}'")
        elif not each.specifier.contains(version, prereleases=True):
            found.append(f"{each.name} is {version}; pip install '{each}'")
    return found


def _against(requirements: list[Requirement], tested: dict[str, str]) -> Finding:
    others = []
    for each in requirements:
        version, pin = _version(each.name), tested.get(each.name.lower())
        if version and pin and Version(version).public != pin:  # 2.13.0+cpu is 2.13.0
            others.append(f"{each.name} {version} (tested: {pin})")
    if not others:
        return Finding("ok", "packages", f"all {len(requirements)} that every run needs")
    text = f"{', '.join(others)}; for the tested ones: pip install -c constraints.txt ."
    return Finding("warning", "packages", text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _installed() -> Wanted:
    described = metadata.metadata(DISTRIBUTION)
    lines = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    extras = {
        name: [line for line in lines if line.marker and line.marker.evaluate({"extra": name})]
        for name in described.get_all("Provides-Extra") or []
    }
    always = [line for line in lines if line.marker is None]
    return Wanted(SpecifierSet(described["Requires-Python"]), always, extras)
