"""Prints those requirements of pyproject.toml, and of the extras named, that are not met here.

It runs in environments of which nothing is known, so it needs the standard library alone.
"""

import sys

if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit(f"error: {sys.executable} is Python {sys.version.split()[0]}; 3.11 to 3.13 are needed")

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9._-]+")


def missing(requirements: list[str]) -> list[str]:
    return [requirement for requirement in requirements if not met(requirement)]


def met(requirement: str) -> bool:
    """Installed, and not older than the lower bound."""
    name = NAME.match(requirement)
    assert name is not None
    try:
        installed = version(name[0])
    except PackageNotFoundError:
        return False
    least = re.search(r">=([0-9.]+)", requirement)
    return least is None or numbers(installed) >= numbers(least[1])


def numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]


project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
wanted = list(project["dependencies"])
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
print(", ".join(missing(wanted)))
