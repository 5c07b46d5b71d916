"""Provide what monitoring needs: checks of token, database, disk and clock, and a few figures."""

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from hsmkms.call_stats import Count
from hsmkms.errors import StoreError, TokenUnavailableError
from hsmkms.hsm.session.pool import PoolUse, is_of_another_token, total_use
from hsmkms.rules import budget
from hsmkms.service.audit.freshness import Freshness
from hsmkms.service.keys.installation_keys import witness
from hsmkms.service.operator import group_members, sweeper
from hsmkms.service.operator.nodes import require_registered
from hsmkms.service.operator.rotation_report import KeyPosture, rotation_report
from hsmkms.service.operator.sweeper import StepOutcome
from hsmkms.service.runtime import clock, node_registry
from hsmkms.service.runtime.core import Core
from hsmkms.store import changes, deletion, files, leases, materials, regions
from hsmkms.store.consistency import Outage

__all__ = ["Alarms", "Figures", "Outage", "PoolUse", "StepOutcome", "Watch"]


class Figures(Struct, frozen=True, kw_only=True):
    """The state of the installation in numbers.

    ``due``: number of steps that are due now; ``next_due``: when the first is or was due. ``next_expiry``,
    ``next_deletion``: when the first imported material expires, and when the first key is deleted. ``budget_used``:
    that of the most used key material, from 0 to 1; ``half_spent``, ``nearly_spent``: how many have used 50 and 90
    percent. ``unreplicated``: how many objects members of HA groups may lack, counted for each member.
    """

    keys_by_state: Mapping[str, int]
    due: int
    next_due: datetime | None
    next_expiry: datetime | None
    next_deletion: datetime | None
    budget_used: float
    half_spent: int
    nearly_spent: int
    unreplicated: int


class Alarms(Struct, frozen=True, kw_only=True):
    """Integrity faults that this process has detected.

    ``audit``: the audit log contradicts its newest seal; ``audit_faults``: how often it could not be written;
    ``altered``: keys, aliases, users and so on whose rows were edited outside of hsmkms; ``older``: ids of tokens that
    are older copies of themselves.
    """

    audit: bool
    audit_faults: int
    altered: frozenset[str]
    older: frozenset[str] = frozenset()


class Watch:
    """Monitors an open installation. Get it as ``kms.operator.watch``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._freshness = Freshness(core)
        self.free = core.tokens.free
        self.now = core.clock
        """The installation's time."""
        self.changes = core.cache.signal
        """Asked for changes before a request, if the installation is strict about those of other nodes."""

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that are served."""
        return self._core.installation.regions

    def title(self) -> str:
        """Name the installation and the token on which keys are made, for the line of a server that has started."""
        home = next(each for each in self._core.tokens.rows() if each.id == self._core.tokens.home_id)
        return f"installation {self._core.installation.id} on token {home.label!r} (serial {home.serial})"

    def check_token(self) -> None:
        """Raise the token's fault if it cannot be used or the installation's own key is not visible on it."""
        self._core.device.connection.ready()
        if not self._core.device.keys.holds(witness(self._core)):
            raise TokenUnavailableError(
                "the installation's own key is not visible on the token: check it with token-info"
            )

    def check_database(self) -> None:
        """Raise StoreError if one of the databases cannot be read, or is not the one that was opened."""
        self.check_files()
        with self._core.store.reading() as conn:
            changes.latest(conn)
        leases.total(self._core.store, "")

    def outage(self) -> Outage | None:
        """Return how long the database has not answered, and what is done meanwhile; None if it answers."""
        return self.changes.outage()

    def check_files(self) -> None:
        """Raise StoreError if a database was moved away or replaced; no request is answered any more then.

        What this process has cached is of the old one, and no change of the new one would reach it. So it is also
        raised once the old one is back in its place.
        """
        try:
            self._core.store.check_in_place()
        except StoreError as exc:
            self._core.cache.refuse(exc)
            raise
        self._core.cache.look()

    def drained(self) -> str | None:
        """Return that this node is drained, or None. StoreError if it was removed: all requests are refused then.

        A row that was edited by hand drains no node, and raises an alarm.
        """
        if require_registered(self._core) or node_registry.is_altered(self._core):
            return None
        return "this node is drained (`hsmkms drain-node`): it still answers what it is sent"

    def check_disk(self) -> None:
        """Raise StoreError if nothing can be written to the data folder: it is full, failing or read-only."""
        files.check_writable(self._core.store.folder)

    def clock_doubt(self) -> str | None:
        """Return why the clock is not trusted, or None."""
        return clock.doubt(self._core)

    def sessions(self) -> PoolUse:
        """Return the session usage of this process, over all its tokens."""
        tokens = self._core.tokens
        use = total_use(each.connection.sessions() for each in tokens.opened())
        away = tokens.away().values()
        wrong = sum(map(is_of_another_token, away))
        return replace(use, away=use.away + len(away), wrong=use.wrong + wrong)

    def token_calls(self) -> list[Count]:
        """Return the counts of this process's calls to its tokens, one token after the other."""
        return [count for each in self._core.tokens.opened() for count in each.connection.calls.counts()]

    def alarms(self) -> Alarms:
        """Return the integrity faults that this process has detected."""
        audit = self._core.audit
        return Alarms(
            audit=audit.alarm is not None,
            audit_faults=audit.faults,
            altered=frozenset(self._core.seals.alarms),
            older=frozenset(self._core.older),
        )

    def older_tokens(self) -> list[str]:
        """Check again which tokens are older copies of themselves; return what is wrong with each."""
        self._freshness.look_again()
        return list(self._core.older.values())

    def figures(self) -> Figures:
        """Compute the figures."""
        with self._core.store.reading() as conn:
            by_state = regions.count_by_state(conn)
            next_expiry, next_deletion = materials.first_expiry(conn), deletion.first(conn)
        warned = [budget.warning(used) for used in leases.beyond(self._core.store, budget.ROTATE_AT).values()]
        return Figures(
            keys_by_state=by_state,
            due=len(sweeper.maintain(self._core, dry_run=True).steps),
            next_due=sweeper.next_date(self._core),
            next_expiry=next_expiry,
            next_deletion=next_deletion,
            budget_used=leases.most(self._core.store) / budget.LIMIT,
            half_spent=len(warned),
            nearly_spent=warned.count(90),
            unreplicated=group_members.count_unreplicated(self._core),
        )

    def keys(self, most: int) -> tuple[list[KeyPosture], int]:
        """Return the keys that were used last, at most so many, and how many more there are."""
        postures = rotation_report(self._core)
        never = datetime.min.replace(tzinfo=UTC)
        postures.sort(key=lambda each: (each.region, each.key_id))
        postures.sort(key=lambda each: each.last_used or never, reverse=True)
        return postures[:most], max(len(postures) - most, 0)
