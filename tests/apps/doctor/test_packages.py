from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from rlhf.apps.doctor import packages
from rlhf.config.extras import needed_extras
from rlhf.config.load import load_config

PRESENT = packages.metadata.version("pydantic")


@pytest.fixture
def wanted() -> packages.Wanted:
    return packages.wanted()


def test_a_checkout_says_itself_what_it_wants(wanted):
    assert "3.12" in wanted.python and "3.14" not in wanted.python
    assert {"torch", "transformers"} <= {each.name for each in wanted.always}
    assert set(needed_extras(load_config("baichuan_7b_qlora"))) <= set(wanted.extras)


@pytest.mark.parametrize(
    ("requirement", "problems"),
    [
        (f"pydantic=={PRESENT}", []),
        ("pydantic<1", [f"pydantic is {PRESENT}; pip install 'pydantic<1'"]),
        ("no-such-one>=2", ["no-such-one is missing; pip install 'no-such-one>=2'"]),
    ],
)
def test_lacking(requirement, problems):
    assert packages.lacking([Requirement(requirement)]) == problems


def test_the_tested_versions(wanted):
    some = packages.Wanted(wanted.python, [Requirement("pydantic")], {})
    as_tested = list(packages.check(some, {"pydantic": PRESENT}))[1]
    assert as_tested == ("ok", "packages", "all 1 that every run needs")
    other = list(packages.check(some, {"pydantic": "1.2.3"}))[1]
    assert other.level == "warning" and f"pydantic {PRESENT} (tested: 1.2.3)" in other.message
    assert packages.tested()["torch"].startswith("2.")


def test_what_is_missing_is_said_before_anything_heavy_is_imported(monkeypatch):
    from rlhf.apps.doctor.command import doctor

    short = packages.wanted()._replace(always=[Requirement("no-such-one")])
    monkeypatch.setattr(packages, "wanted", lambda: short)
    found = list(doctor(None))
    assert [one.level for one in found] == ["ok", "fault", "ok"]
    assert found[1].message == "no-such-one is missing; pip install 'no-such-one'"
