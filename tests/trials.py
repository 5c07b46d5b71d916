"""Trials of SoftHSM that tests share: each generates an RSA key pair, which takes longer than most tests.

What a token can do with imported key material is tried once for each opened token (hsmkms/hsm/import_profiles.py). The
installed SoftHSM gives the same answers each time, so for tests of what comes after the trial it is made once in a
process. A token behind another module (shim, spy, group), or with hidden mechanisms, is tried as ever. Not for tests of
the trial itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from msgspec.structs import replace

from hsmkms.hsm.import_profiles import ImportProfiles
from hsmkms.hsm.imports.wrapping import ImportProfile
from hsmkms.hsm.session import softhsm

_try: Final = ImportProfiles._probed
_results: Final[dict[tuple[bool, bool, frozenset[str]], ImportProfile]] = {}
"""By ``host_unwrap``, whether every kind was tried, and the mechanisms of the token."""


@contextmanager
def shared() -> Iterator[None]:
    """Make the trial of the installed SoftHSM once, for all tokens that are opened in such blocks."""
    module = softhsm.find_module()

    def probed(self: ImportProfiles, *, every_kind: bool) -> ImportProfile:
        connection = self._connection
        if connection.settings.module != module:
            return _try(self, every_kind=every_kind)
        known = connection.settings.host_unwrap, every_kind, connection.profile.mechanisms
        if known not in _results:
            _results[known] = _try(self, every_kind=every_kind)
        return replace(_results[known], attributes=connection.profile.attributes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImportProfiles, "_probed", probed)
        yield
