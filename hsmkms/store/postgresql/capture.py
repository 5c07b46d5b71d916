"""Triggers that record which subjects a transaction has touched, and that refuse writers that do not seal.

They are part of the database, so no statement of any program avoids them. What they record goes to a table that only
exists for the transaction that writes it: it reads and empties it before its commit, and a rollback (also of a part)
undoes it. The table is unlogged: after a crash it is empty, as it is between transactions.
"""

from collections.abc import Container, Iterable, Mapping
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from hsmkms.store import seal_layout
from hsmkms.store.sealed_tables import SealedTable

TOUCHED: Final = "touched_subject"
SEALS: Final = "SET LOCAL hsmkms.seals = 'sets'"
"""What a writer that seals declares at the beginning of its transaction."""

UNSEALED_STATE: Final = "HK001"
"""SQLSTATE of a write by a process that seals nothing."""

GUARDED: Final = ("change_log", "token_object", "wrapping_key")
"""Tables with guard triggers: every change of a sealed row writes to at least one of them."""

_NOTE: Final = """
BEGIN
    IF TG_OP <> 'INSERT' THEN INSERT INTO touched_subject VALUES ({old}); END IF;
    IF TG_OP <> 'DELETE' THEN INSERT INTO touched_subject VALUES ({new}); END IF;
    RETURN NULL;
END
"""
_REFUSE_TRUNCATE: Final = """
BEGIN
    RAISE EXCEPTION 'rows are removed one by one';
END
"""
_MUST_SEAL: Final = """
BEGIN
    IF coalesce(current_setting('hsmkms.seals', true), '') <> 'sets' AND EXISTS (SELECT 1 FROM store_root) THEN
        RAISE EXCEPTION 'the control plane is sealed' USING ERRCODE = 'HK001';
    END IF;
    RETURN NULL;
END
"""


class Trigger(Struct, frozen=True):
    """A trigger, whose function has no arguments. ``moment``: what stands between its name and ON."""

    name: str
    table: str
    moment: str
    each: str
    function: str


def functions() -> dict[str, str]:
    """Return the bodies of the triggers' functions, by name."""
    bodies = {f"note_{table.name}": _note(table) for table in seal_layout.own().tables}
    return bodies | {"refuse_truncate": _REFUSE_TRUNCATE, "must_seal": _MUST_SEAL}


def triggers() -> tuple[Trigger, ...]:
    """Return the triggers."""
    tables = [table.name for table in seal_layout.own().tables]
    written = "INSERT OR UPDATE OR DELETE"
    return (
        *(Trigger("note_touched", name, f"AFTER {written}", "ROW", f"note_{name}") for name in tables),
        *(Trigger("refuse_truncate", name, "BEFORE TRUNCATE", "STATEMENT", "refuse_truncate") for name in tables),
        *(Trigger("must_seal", name, f"BEFORE {written}", "STATEMENT", "must_seal") for name in GUARDED),
    )


def statements() -> list[str]:
    """Return the statements that make table, functions and triggers."""
    return [
        f'CREATE UNLOGGED TABLE {TOUCHED} (subject text COLLATE "C" NOT NULL)',
        *_function_statements(functions()),
        *_trigger_statements(triggers()),
    ]


def statements_for(tables: Container[str]) -> list[str]:
    """Return the statements that make functions and triggers of tables that a migration has added."""
    added = [each for each in triggers() if each.table in tables]
    own = {each.function for each in added} - {"refuse_truncate", "must_seal"}
    bodies = {name: body for name, body in functions().items() if name in own}
    return [*_function_statements(bodies), *_trigger_statements(added)]


def _function_statements(bodies: Mapping[str, str]) -> list[str]:
    return [
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body${body}$body$"
        for name, body in bodies.items()
    ]


def _trigger_statements(wanted: Iterable[Trigger]) -> list[str]:
    made = []
    for each in wanted:
        runs = f"FOR EACH {each.each} EXECUTE FUNCTION {each.function}()"
        made.append(f'CREATE TRIGGER {each.name} {each.moment} ON "{each.table}" {runs}')
        # Also for sessions that declare themselves replicas, for which triggers do not run otherwise.
        made.append(f'ALTER TABLE "{each.table}" ENABLE ALWAYS TRIGGER {each.name}')
    return made


def take(tx: Connection) -> list[str]:
    """Return the subjects that the transaction has touched, sorted, and clear the list."""
    subjects = set(tx.exec_driver_sql(f"DELETE FROM {TOUCHED} RETURNING subject").scalars())  # noqa: S608 - a constant
    return sorted(subjects)


def _note(table: SealedTable) -> str:
    return _NOTE.format(old=table.subject_expression("OLD", _hexed), new=table.subject_expression("NEW", _hexed))


def _hexed(expression: str) -> str:
    return f"upper(encode({expression}, 'hex'))"
