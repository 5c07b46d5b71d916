"""Where the PostgreSQL database is, and how to connect to it.

A URL never holds the password, since URLs come into configurations, logs and messages. libpq knows what else may stand
in its query: TLS (``sslmode``, ``sslrootcert`` …), timeouts, several hosts. What it does not say is chosen so that a
connection over the network is encrypted and goes to the server that was meant, and one that is lost is noticed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from msgspec import Struct
from sqlalchemy import URL, Dialect, make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import ArgumentError

from hsmkms.errors import ConfigurationError

DRIVER: Final = "postgresql+psycopg"
RawConnection = psycopg.Connection[Any]

_SAMPLE: Final = f"{DRIVER}://hsmkms@db.example.net/hsmkms"
_DEFAULTS: Final[dict[str, object]] = {
    "application_name": "hsmkms",
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "read-write",
}
_OVER_THE_NETWORK: Final = {"sslmode": "verify-full"}
_DIALECT: Final[Dialect] = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_SECRET: Final = ("password", "passfile", "sslpassword")


SCHEMA_PATH: Final = "SET LOCAL search_path = public, pg_temp"
"""Begins every transaction: names mean the tables of hsmkms and the server's own functions, whatever is set for the
role or the database. Without it a function in another schema, or a temporary table, could take their place."""


class NotConnectedError(psycopg.OperationalError):
    """No connection could be made, so nothing was sent; psycopg itself does not always tell that from a lost one."""


class Target(Struct, frozen=True):
    """A database, and where its password comes from: it is read for each connection, so that it may change."""

    url: URL
    password: Callable[[], str] | None = None
    listen_url: URL | None = None
    """The way past a pooler, for the connection that listens; then ``url`` leads through it."""

    @property
    def name(self) -> str:
        """The name of the database in messages."""
        return f"the PostgreSQL database {self.url.database} on {', '.join(self._hosts) or 'this machine'}"

    def listening(self) -> "Target":
        """Return the target of the connection that listens: a pooler would give it away after each transaction."""
        return self if self.listen_url is None else Target(self.listen_url, self.password)

    def connect(self) -> RawConnection:
        """Open a connection in autocommit mode. Raises NotConnectedError, ConfigurationError, PinError."""
        options = _DEFAULTS | ({} if self._is_local else _OVER_THE_NETWORK)
        _, given = _DIALECT.create_connect_args(self.url)
        options |= given
        if self.password is not None:
            options["password"] = self.password()
        if self.listen_url is not None:  # older poolers do not know which of their connections has prepared what
            options["prepare_threshold"] = None
        try:
            return psycopg.connect(**options, autocommit=True)  # type: ignore[arg-type]  # libpq checks them
        except psycopg.ProgrammingError as exc:
            raise ConfigurationError(
                f"libpq does not understand the URL of {self.name} ({exc}): correct its query"
            ) from None
        except psycopg.OperationalError as exc:
            raise NotConnectedError(*exc.args) from exc

    @property
    def _is_local(self) -> bool:
        """True if every host is a Unix socket."""
        return all(each.startswith(("/", "@")) for each in self._hosts)

    @property
    def _hosts(self) -> Sequence[str]:
        """The hosts; none means libpq's default, a Unix socket."""
        hosts = self.url.query.get("host") or self.url.host or ()
        return (hosts,) if isinstance(hosts, str) else hosts


def parse(url: str, password: Callable[[], str] | None = None, listen_url: str | None = None) -> Target:
    """Return the database at a URL. Raises ConfigurationError, which does not contain a password of the URL."""
    past_pooler = None if listen_url is None else _parsed("store.listen_url", listen_url)
    return Target(_parsed("store.url", url), password, past_pooler)


def _parsed(name: str, url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{name} is no URL of a database: write it as {_SAMPLE}") from None
    if parsed.drivername != DRIVER:
        raise ConfigurationError(f"{name} begins with {parsed.drivername}: only {DRIVER}:// is possible")
    if parsed.password is not None or any(each in parsed.query for each in _SECRET):
        raise ConfigurationError(
            f"{name} must not hold a password: give a file, a variable or a command in store.password"
        )
    if not parsed.database:
        raise ConfigurationError(f"{name} names no database: write it as {_SAMPLE}")
    return parsed
