from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rlhf.apps.annotate.accounts import add_user, count_users, has_auditor, is_auditor, is_password
from rlhf.apps.annotate.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "annotation.sqlite")


def test_password(database: Database) -> None:
    add_user(database, "王芳", "correct horse", auditor=False)
    assert is_password(database, "王芳", "correct horse")
    assert not is_password(database, "王芳", "correct horsE")
    assert not is_password(database, "nobody", "correct horse")
    assert not is_password(database, "nobody", "")


def test_only_salted_hashes_are_kept(database: Database) -> None:
    add_user(database, "ann", "correct horse", auditor=False)
    add_user(database, "bob", "correct horse", auditor=False)
    with closing(sqlite3.connect(database.path)) as connection:
        rows = connection.execute("SELECT password FROM users").fetchall()
    assert rows[0] != rows[1]
    assert all(row[0].startswith("scrypt$") for row in rows)
    files = b"".join(path.read_bytes() for path in database.path.parent.iterdir())
    assert b"correct horse" not in files


def test_again_sets_password_and_role(database: Database) -> None:
    add_user(database, "ann", "correct horse", auditor=False)
    assert not is_auditor(database, "ann") and not has_auditor(database)
    add_user(database, "ann", "battery staple", auditor=True)
    assert is_auditor(database, "ann") and has_auditor(database)
    assert not is_password(database, "ann", "correct horse")
    assert count_users(database) == 1


@pytest.mark.parametrize("name", ["", " ann", "a/b", "a\nb", "_", "x" * 65])
def test_names_that_cannot_be(database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a user name"):
        add_user(database, name, "correct horse", auditor=False)


def test_short_password(database: Database) -> None:
    with pytest.raises(ValueError, match="at least 8"):
        add_user(database, "ann", "horse", auditor=False)
