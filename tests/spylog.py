"""Reading what ``pkcs11-spy`` wrote: what really happened between hsmkms and the token."""

import re
from pathlib import Path
from typing import Self

from msgspec import Struct

_CALL = re.compile(r"^\d+: (C_\w+)\n", re.MULTILINE)
_RETURNED = re.compile(r"^Returned:\s+\d+ (CKR_\w+)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (CKA_\S+(?: \(0x[0-9a-f]+\))?) +(\S+)", re.MULTILINE)


class SpyCall(Struct, frozen=True, kw_only=True):
    """One call: its name, everything that was logged of it, and its answer."""

    name: str
    text: str
    returned: str

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Read one entry of the log."""
        answer = _RETURNED.search(text)
        return cls(name=name, text=text, returned=answer[1] if answer else "")

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes named in the call, with what the log shows of their values."""
        return dict(_ATTRIBUTE.findall(self.text))


def read(log: Path) -> list[SpyCall]:
    """All calls of a log, in their order; none if nothing was called."""
    if not log.exists():
        return []
    _, *parts = _CALL.split(log.read_text(errors="replace"))
    return [SpyCall.parse(name, text) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def named(calls: list[SpyCall], *names: str) -> list[SpyCall]:
    """The calls of these functions."""
    return [call for call in calls if call.name in names]


class MainJob(Struct, frozen=True, kw_only=True):
    """What the main job reported, and what the spy saw of it."""

    key: str
    cipher_format: str
    opened: str
    deviations: list[str]
    calls: list[SpyCall]


def refused_copies(calls: list[SpyCall]) -> int:
    """How many copies were asked for: of the probe's session key alone, into a session object, and all refused."""
    copies = named(calls, "C_CopyObject")
    assert all(each.attributes == {} for each in copies)
    assert all("Returned:  27 " in each.text for each in copies)  # CKR_ACTION_PROHIBITED, for which the spy has no name
    return len(copies)
