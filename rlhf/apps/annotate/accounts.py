"""Accounts of annotators and auditors: passwords are kept as salted scrypt hashes (RFC 7914)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from rlhf.apps.annotate.database import Database

SHORTEST = 8
NAME = re.compile(r"[^\W_][\w.@-]{0,63}")
_NOBODY = f"scrypt${'0' * 32}${'0' * 64}"


def check_name(name: str) -> None:
    """Raises ValueError for a name that cannot be an account's."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a user name: use letters, digits and . _ - @, at most 64"
        )


def add_user(database: Database, name: str, password: str, *, auditor: bool) -> None:
    """Make an account, or give an existing one this password and role.

    Raises:
        ValueError: a name that cannot be one, or a password shorter than eight characters.
    """
    check_name(name)
    if len(password) < SHORTEST:
        raise ValueError(f"the password is too short: use at least {SHORTEST} characters")
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (name) "
            "DO UPDATE SET password = excluded.password, auditor = excluded.auditor",
            (name, _hashed(password, secrets.token_bytes(16)), auditor),
        )


def is_password(database: Database, name: str, password: str) -> bool:
    """Whether this is the account's password; an unknown name takes as long as a wrong password."""
    with database.reading() as connection:
        row = connection.execute("SELECT password FROM users WHERE name = ?", (name,)).fetchone()
    stored = row["password"] if row else _NOBODY
    given = _hashed(password, bytes.fromhex(stored.split("$")[1]))
    return hmac.compare_digest(given, stored) and row is not None


def is_auditor(database: Database, name: str) -> bool:
    """Whether the account is an auditor's."""
    with database.reading() as connection:
        row = connection.execute("SELECT auditor FROM users WHERE name = ?", (name,)).fetchone()
    return bool(row and row["auditor"])


def count_users(database: Database) -> int:
    """How many accounts there are."""
    with database.reading() as connection:
        return int(connection.execute("SELECT COUNT(*) FROM users").fetchone()[0])


def has_auditor(database: Database) -> bool:
    """Whether anybody audits this job."""
    with database.reading() as connection:
        return connection.execute("SELECT 1 FROM users WHERE auditor").fetchone() is not None


def _hashed(password: str, salt: bytes) -> str:
    digest = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
    return f"scrypt${salt.hex()}${digest.hex()}"
