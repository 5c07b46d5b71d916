"""Publish the end of a process's lane of the audit log in the database, every second while it moves.

Records that were written since then are covered by no other node: of a node that died with its disk, at least so many
are known to have been there.
"""

import logging

from msgspec import UNSET

from hsmkms.errors import DependencyTimeoutException, StoreError
from hsmkms.model.audit import Head
from hsmkms.service.audit.node_heads import acceptance_of
from hsmkms.service.audit.sealing import Proof, Sealer
from hsmkms.service.runtime.core import Core

log = logging.getLogger("hsmkms.service")


class EndPublisher:
    """Publishes the end of this process's lane. Used by one thread."""

    def __init__(self, core: Core, sealer: Sealer) -> None:
        self._core = core
        self._sealer = sealer
        self._published: tuple[str, Head] | None = None
        self._proven_acceptance = 0
        self._failed = False

    def publish(self) -> None:
        """Publish the end of the lane if it has moved; while the database is away, only log that, once."""
        end = self._core.audit.end
        if end is None or end == self._published or not self._sealer.nodes.shared:
            return
        acceptance = self._acceptance()
        try:
            self._sealer.nodes.publish(dict([end]), acceptance)
        except (StoreError, DependencyTimeoutException) as exc:
            if not self._failed:
                log.warning("the end of the audit log cannot be published in the database now: %s", exc)
            self._failed = True
            return
        self._published, self._failed = end, False

    def _acceptance(self) -> int:
        """Return the number of the log's newest acceptance, which the token must prove.

        Else whoever shortens the log could forge one, after which the log may be shorter.
        """
        last = self._sealer.last()
        acceptance = acceptance_of(last.seal if last is not None else None)
        if last is not None and acceptance != self._proven_acceptance:
            own = last.seal.node in (UNSET, self._core.audit.node_id)
            if not own or self._sealer.prove(last) is not Proof.PROVEN:
                raise StoreError("the token does not prove the newest seal of the audit log: run `hsmkms audit verify`")
            self._proven_acceptance = acceptance
        return acceptance
