"""Cache what a token can do with imported key material, probed when it is first needed."""

import threading
from typing import Final

from msgspec.structs import replace

from hsmkms.errors import UnsupportedOperationException
from hsmkms.hsm.imports.probe import probe_import, probe_kinds
from hsmkms.hsm.imports.wrapping import ImportProfile
from hsmkms.hsm.session.connection import Connection
from hsmkms.model.enums import WrappingAlgorithm
from hsmkms.model.token_check import CheckReport

CRASHES: Final = (
    "the module crashes or hangs where material cannot be unwrapped, so that whoever imports could end a worker"
)

INSTEAD: Final = "generate the keys on the token, use a module without this fault, or set import.accept_crashes"


class ImportProfiles:
    """Results of the probes, for the life of the process. Thread-safe; of no use in a forked child."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._probing = threading.Lock()
        self._symmetric: ImportProfile | None = None
        self._every_kind: ImportProfile | None = None
        self._member = connection.member

    def symmetric(self) -> ImportProfile:
        """Return what the token can do with imported material; probed at the first call."""
        self._connection.guard.check()
        with self._probing:
            self._forget_other_member()
            if self._symmetric is None:
                self._symmetric = self._probed(every_kind=False)
            return self._symmetric

    def every_kind(self) -> ImportProfile:
        """Return the same with the kinds besides symmetric keys that it imports; probed at the first call."""
        self._connection.guard.check()
        with self._probing:
            self._forget_other_member()
            symmetric = self._symmetric
            if self._every_kind is None and symmetric is not None:
                self._every_kind = self._connection.repeatable(
                    lambda session: probe_kinds(self._connection.token, session, symmetric)
                )
            elif self._every_kind is None:
                self._every_kind = self._symmetric = self._probed(every_kind=True)
            return self._every_kind

    def _probed(self, *, every_kind: bool) -> ImportProfile:
        """Run the trials with one key pair, which takes longer to generate than all of them to make."""
        from hsmkms.hsm.refusal_trial import crashes  # noqa: PLC0415 - it imports all checks of a token

        host_unwrap, support = self._connection.settings.host_unwrap, self._connection.profile.attributes
        profile = self._connection.repeatable(
            lambda session: probe_import(
                self._connection.token, session, support, host_unwrap=host_unwrap, every_kind=every_kind
            )
        )
        if not profile.algorithms() or not crashes(self._connection):
            return profile
        if self._connection.settings.accept_crashes:
            return replace(profile, accepted=CRASHES)
        return ImportProfile(refusal=f"{CRASHES}: {INSTEAD}")

    def _forget_other_member(self) -> None:
        """Drop the results if another member of the HA group has taken over."""
        if self._member != self._connection.member:
            self._symmetric = self._every_kind = None
            self._member = self._connection.member

    def try_refused_material(self) -> None:
        """Record whether the module survives what it cannot unwrap, so that the first import need not try it."""
        from hsmkms.hsm.refusal_trial import crashes  # noqa: PLC0415 - see _probed

        self._connection.guard.check()
        crashes(self._connection)

    def record_checks(self, report: CheckReport) -> None:
        """Record what ``token-check`` has found about material that cannot be unwrapped."""
        from hsmkms.hsm.refusal_trial import record  # noqa: PLC0415 - see _probed

        record(self._connection, report)

    def of(self, algorithm: WrappingAlgorithm) -> ImportProfile:
        """Return the profile if the token can do the algorithm, else raise UnsupportedOperationException."""
        profile = self.symmetric()
        possible = profile.algorithms()
        if algorithm not in possible:
            reason = f" ({profile.refusal})" if profile.refusal else ""
            can = ", ".join(possible) or "no wrapping algorithm"
            raise UnsupportedOperationException(f"this token cannot unwrap {algorithm}: it can do {can}{reason}")
        return profile
