"""Open the parts of a store on PostgreSQL: the two databases, which share their connections, and the change signal."""

from collections.abc import Callable

from msgspec import Struct

from hsmkms.store.consistency import Consistency
from hsmkms.store.database import ChangeSignal
from hsmkms.store.postgresql.availability import Availability
from hsmkms.store.postgresql.database import PostgresqlDatabase, make_engine
from hsmkms.store.postgresql.generation import Generation
from hsmkms.store.postgresql.signal import GenerationSignal
from hsmkms.store.postgresql.target import Target


class Parts(Struct, frozen=True):
    """What a store is made of."""

    meta: PostgresqlDatabase
    log: PostgresqlDatabase
    change_signal: Callable[[], ChangeSignal]


def open_parts(target: Target, wait_seconds: float, is_sealing: Callable[[], bool], consistency: Consistency) -> Parts:
    """Open both databases. Nothing is connected yet; ``wait_seconds``: for the write lock, and for a connection."""
    generation, availability = Generation(), Availability(target.name)
    engine = make_engine(target, availability, wait_seconds)
    return Parts(
        PostgresqlDatabase(engine, availability, wait_seconds, generation, is_sealing),
        PostgresqlDatabase(engine, availability, wait_seconds),
        lambda: GenerationSignal(target, generation, availability, consistency),
    )
