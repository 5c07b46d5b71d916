"""Record which member of an HA group is in use, so that all processes of an installation use the same one.

Two members that lag behind each other must not be used in turns: a process that starts after a failover stays with the
member that took over, though the first of the list is present again, and one that runs follows it.
"""

import hashlib
import logging
from contextlib import suppress
from pathlib import Path

from hsmkms import atomic_write

log = logging.getLogger("hsmkms.hsm")

_LONGEST_SERIAL = 64


class LastMember:
    """The serial of the member in use, in a file of ``folder`` for each list of serials."""

    def __init__(self, folder: Path, serials: tuple[str, ...]) -> None:
        name = hashlib.sha256("\n".join(sorted(serials)).encode()).hexdigest()[:16]
        self._path = folder / f"ha-member-{name}"
        self._serials = serials

    def read(self) -> str | None:
        """Return the serial; None if no member has answered yet, or the file names none of the list."""
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                serial = file.read(_LONGEST_SERIAL)
        except OSError:
            return None
        return serial if serial in self._serials else None

    def write(self, serial: str) -> None:
        """Record the member in use now. If that fails, it is logged, and the first of the list is preferred."""
        if self.read() == serial:
            return
        try:
            atomic_write.replace(self._path, serial.encode(), durable=False)
        except OSError as exc:
            log.warning("the HA member in use is not remembered: %s cannot be written: %s", self._path, exc.strerror)

    def pass_on(self, used_since: float) -> str | None:
        """Record the next member of the list, since a process has hung with the present one; return its serial.

        ``used_since``: when that process began, by ``time.time()``. None if the record has changed since then: several
        processes hang with one member, and one change is enough.
        """
        with suppress(OSError):
            if self._path.stat().st_mtime > used_since:
                return None
        present = self.read() or self._serials[0]
        following = self._serials[(self._serials.index(present) + 1) % len(self._serials)]
        self.write(following)
        return following
