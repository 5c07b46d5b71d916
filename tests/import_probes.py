"""The probes of imports, run once per process and configuration of SoftHSM instead of once per opened device.

Each of the two generates an RSA key pair. They answer the same for every device of plain SoftHSM, so the tests of the
service and those of unwrapping share their answers; a device behind the shim, the spy or any other module is probed
each time. The probes are tested in ``tests/hsm/test_hsm_wrapping.py`` and ``tests/hsm/test_hsm_personalities*.py``.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace
from pkcs11.types import Session, Token

from hsmkms.errors import ModuleError
from hsmkms.hsm import import_profiles
from hsmkms.hsm.imports.probe import probe_import, probe_kinds
from hsmkms.hsm.imports.wrapping import ImportProfile
from hsmkms.hsm.objects.support import STANDARD, AttributeSupport
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session import softhsm


class SharedProbes:
    """The answers of this process's probes, by what they depend on."""

    def __init__(self) -> None:
        self._profiles: dict[Hashable, ImportProfile] = {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let devices that are opened in this process share the answers for the block."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(import_profiles, "probe_import", self.probe_import)
            patch.setattr(import_profiles, "probe_kinds", self.probe_kinds)
            yield

    def probe_import(
        self, token: Token, session: Session, support: AttributeSupport = STANDARD, *, host_unwrap: bool
    ) -> ImportProfile:
        """Probe, or return what a device of the same kind answered."""
        profile = self._shared(
            token, ("import", host_unwrap), lambda: probe_import(token, session, support, host_unwrap=host_unwrap)
        )
        return replace(profile, attributes=support)

    def probe_kinds(self, token: Token, session: Session, profile: ImportProfile) -> ImportProfile:
        """Probe, or return what a device of the same kind answered."""
        key = ("kinds", profile.raw_rsa, profile.algorithms())
        return replace(
            self._shared(token, key, lambda: probe_kinds(token, session, profile)), attributes=profile.attributes
        )

    def _shared(self, token: Token, question: Hashable, probe: Callable[[], ImportProfile]) -> ImportProfile:
        if not _only_softhsm_is_open():
            return probe()
        key = (question, frozenset(token.slot.get_mechanisms()))
        if key not in self._profiles:
            self._profiles[key] = probe()
        return self._profiles[key]


def _only_softhsm_is_open() -> bool:
    try:
        return set(modules._registry._open) == {softhsm.find_module().resolve()}
    except ModuleError:
        return False
