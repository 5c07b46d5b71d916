"""The settings of the store: where its database is, and the source of the database's password.

No error, repr or log of this module contains any part of a password.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from msgspec import Struct
from msgspec.structs import asdict

from hsmkms.config.limits import between, one_of
from hsmkms.config.pins import read_private_key
from hsmkms.errors import ConfigurationError

BOUNDED: Final = "bounded"
STRICT: Final = "strict"

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
    """Where the store is: without ``url`` in files of the data folder. The rest is about a database on a server.

    ``consistency``: when a change acts on other nodes. ``stale_seconds``: how long cached keys are used while the
    database does not answer. ``listen_url``: the same database past a pooler.
    """

    url: str | None = None
    consistency: Annotated[str, one_of((BOUNDED, STRICT))] = BOUNDED
    stale_seconds: Annotated[float, between(0, 3600)] = 30.0
    listen_url: str | None = None
    password: PasswordSettings = PasswordSettings()


def faults(store: StoreSettings) -> dict[str, bool]:
    """Return sentences about the settings, and whether they apply. None of them quotes the URL."""
    given = {name: url for name, url in (("url", store.url), ("listen_url", store.listen_url)) if url is not None}
    return {
        **{f"store.{name} must begin with {SCHEME}": not url.startswith(SCHEME) for name, url in given.items()},
        **{
            f"store.{name} must not hold a password: name its source in [store.password]": ":"
            in url.partition("://")[2].partition("/")[0].rpartition("@")[0]
            for name, url in given.items()
        },
        "store.listen_url goes with store.url: set both or neither": store.listen_url is not None and store.url is None,
        "store.consistency goes with store.url: databases in files are always strict": store.consistency != BOUNDED
        and store.url is None,
        "store.stale_seconds goes with store.url: databases in files do not go away": store.url is None
        and store.stale_seconds != StoreSettings().stale_seconds,
        "store.password goes with store.url: set both or neither": bool(store.password.named) and store.url is None,
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
