"""What a monitor asks of an installation: is the token there, is the database, and a few figures."""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from hsmkms.errors import TokenUnavailableError
from hsmkms.rules import budget
from hsmkms.service import clock, maintenance
from hsmkms.service.core import Core
from hsmkms.store import changes, keys, leases


class Figures(Struct, frozen=True, kw_only=True):
    """The state of the installation in numbers. ``budget_used``: from 0 to 1, of the most used key material."""

    keys_by_state: Mapping[str, int]
    due: int
    budget_used: float
    sessions: int
    sessions_waiting: int


class Watch:
    """Looks at an open installation. Get it as ``kms.operator.watch``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that are served."""
        return self._core.installation.regions

    def now(self) -> datetime:
        """The installation's time."""
        return self._core.clock()

    def check_token(self) -> None:
        """Raise what is wrong with the token, if it does not show the installation's own key."""
        self._core.device.ready()
        if not self._core.device.holds(self._core.installation.mac_key):
            raise TokenUnavailableError("the token does not show the installation's own key: check it with token-info")

    def check_database(self) -> None:
        """Raise what is wrong with the databases, if they cannot be read."""
        with self._core.store.reading() as conn:
            changes.latest(conn)
        leases.total(self._core.store, "")

    def clock_doubt(self) -> str | None:
        """Why the clock is not trusted, or None."""
        return clock.doubt(self._core)

    def figures(self) -> Figures:
        """Count."""
        with self._core.store.reading() as conn:
            by_state = keys.count_by_state(conn)
        opened, waiting = self._core.device.sessions()
        return Figures(
            keys_by_state=by_state,
            due=len(maintenance.maintain(self._core, dry_run=True).steps),
            budget_used=leases.most(self._core.store) / budget.LIMIT,
            sessions=opened,
            sessions_waiting=waiting,
        )
