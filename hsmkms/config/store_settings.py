"""The settings of the store: where its database is, and the source of the database's password.

No error, repr or log of this module contains any part of a password.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from hsmkms.config.pins import read_private_key
from hsmkms.errors import ConfigurationError

SCHEME: Final = "postgresql+psycopg://"
CREDENTIAL: Final = "database-password"
"""The name of the systemd credential that may stand for the password's file (LoadCredential=database-password:FILE). It
is fixed, so that no credential of another name, such as a token's PIN, is ever sent to a database."""

_WHAT: Final = "the file with the database's password"


class PasswordSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The source of the database's password: at most one of these."""

    file: Path | None = None
    environment: str | None = None
    command: tuple[str, ...] | None = None

    @property
    def named(self) -> list[str]:
        """The names of the sources that are set."""
        return [name for name, value in asdict(self).items() if value is not None]


class StoreSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the store is: without ``url`` in files of the data folder."""

    url: str | None = None
    password: PasswordSettings = PasswordSettings()


def faults(store: StoreSettings) -> dict[str, bool]:
    """Return sentences about the settings, and whether they apply. None of them quotes the URL."""
    url, authority = store.url or "", (store.url or "").partition("://")[2].partition("/")[0]
    return {
        f"store.url must begin with {SCHEME}": store.url is not None and not url.startswith(SCHEME),
        "store.url must not hold a password: name its source in [store.password]": ":" in authority.rpartition("@")[0],
        "store.password goes with store.url": bool(store.password.named) and store.url is None,
        "store.password: name one of file, environment and command": len(store.password.named) > 1,
        "store.password.command must name a program": store.password.command is not None
        and not "".join(store.password.command[:1]),
    }


def password_reader(password: PasswordSettings) -> Callable[[], str] | None:
    """Return the function that reads the password from its source; None without a source.

    It raises ConfigurationError.
    """
    return partial(_read, password) if password.named else None


def _read(password: PasswordSettings) -> str:
    if password.environment is not None:
        value = os.environ.get(password.environment)
        if value is None:
            raise ConfigurationError(
                f"the environment variable {password.environment} (store.password.environment) is not set"
            )
        return value
    raw = read_private_key(_WHAT, file=password.file, command=password.command, credentials=(CREDENTIAL,))
    try:
        line = raw.partition(b"\n")[0].removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        line = ""
    if not line:
        raise ConfigurationError(f"store.password.{password.named[0]} holds no password on its first line")
    return line
