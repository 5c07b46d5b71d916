"""Cache how the token generates key pairs of each spec, found out by a trial when a spec is first needed."""

import threading
from typing import Final

from pkcs11.mechanisms import KeyType

from hsmkms.errors import UnsupportedOperationException
from hsmkms.hsm.objects.key_specs import KEY_FACTS, KeyFacts
from hsmkms.hsm.probing.pairs import Outcome, try_pair
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.enums import KeySpec

_UNTRIED: Final = (KeyType.RSA,)
"""Has one form, and takes long to generate."""


class PairTrials:
    """Outcomes of the trials, for the life of the process. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._trying = threading.Lock()
        self._outcomes: dict[tuple[str | None, KeySpec], Outcome] = {}
        """By member of the HA group, and spec."""

    def facts(self, spec: KeySpec) -> KeyFacts:
        """Return how this token generates pairs of a spec. UnsupportedOperationException if it generates none."""
        outcome = self.outcome(spec)
        if isinstance(outcome, str):
            raise UnsupportedOperationException(f"This token makes no key pairs of spec {spec}: {outcome}.")
        return outcome

    def outcome(self, spec: KeySpec) -> Outcome:
        """Return the outcome of a spec's trial, and run it if it has not run yet."""
        facts = KEY_FACTS[spec]
        if facts.public is None or facts.key_type in _UNTRIED:
            return facts
        self._connection.guard.check()
        with self._trying:
            tried = self._connection.member, spec
            if tried not in self._outcomes:
                self._outcomes[tried] = self._connection.repeatable(
                    lambda session: try_pair(session, facts, self._connection.profile.attributes)
                )
            return self._outcomes[tried]
