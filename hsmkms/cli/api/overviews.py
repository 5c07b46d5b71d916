"""Add to the table of a list what the API's answer leaves out, for the operator at a terminal."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from hsmkms.cli.options import Common
from hsmkms.cli.output import OutputFormat
from hsmkms.cli.tables import WideRows
from hsmkms.model.enums import KeyState, Operation

if TYPE_CHECKING:
    from hsmkms.kms import Kms
    from hsmkms.service.operator.rotation_report import KeyPosture

Answer = dict[str, Any]

_STACKS: Final = (("KeyId", "Alias"), ("State", "Origin", "Spec"), ("Age", "Next"))


def widened(operation: Operation, kms: "Kms", answer: Answer, common: Common) -> Answer:
    """Return the answer with more columns, if it is printed as a table for the account's root.

    Queries, other formats, and the answers to users (--as) have the members of the API.
    """
    is_table = common.format is OutputFormat.TABLE and common.query is None
    if operation in _OVERVIEWS and is_table and common.user is None:
        return _OVERVIEWS[operation](kms, answer, common.region)
    return answer


def _list_keys(kms: "Kms", answer: Answer, region: str | None) -> Answer:
    """Describe the keys of ListKeys with alias, state, origin, spec, age and next date."""
    postures = {each.key_id: each for each in kms.operator.rotation_report(kms.caller(region).region)}
    listed = [each["KeyId"] for each in answer["Keys"]]
    rows = [_row(postures[key_id]) for key_id in listed if key_id in postures]
    return answer | {"Keys": WideRows(rows, _STACKS)}


def _row(key: "KeyPosture") -> dict[str, Any]:
    return {
        "KeyId": key.key_id,
        "Alias": ", ".join(key.aliases) or None,
        "State": key.key_state,
        "Origin": key.origin,
        "Spec": key.key_spec,
        "Age": "1 day" if key.age_days == 1 else f"{key.age_days} days",
        "Next": _next(key),
    }


def _next(key: "KeyPosture") -> str | None:
    """Return the key's next date and what happens then; None if nothing is due."""
    if key.deletion_date is not None:
        return f"deletion {key.deletion_date:%Y-%m-%d}"
    if key.key_state is KeyState.PENDING_REPLICA_DELETION:
        return "deletion after its replicas"
    dates = {"rotation": key.next_rotation, "expiry": key.expires_at}
    known = [(date, name) for name, date in dates.items() if date is not None]
    return f"{min(known)[1]} {min(known)[0]:%Y-%m-%d}" if known else None


_OVERVIEWS: Final[Mapping[Operation, Callable[["Kms", Answer, str | None], Answer]]] = {Operation.LIST_KEYS: _list_keys}
