"""The device: a token in parts, one for each kind of work.

Every procedure but those that only read (inventory, attestation) requires a ``Permit``. All parts share the connection
(session/connection.py), which lends sessions and replaces lost ones.
"""

import os

from hsmkms.hsm.ciphers import Ciphers
from hsmkms.hsm.import_profiles import ImportProfiles
from hsmkms.hsm.imported import Imports
from hsmkms.hsm.key_objects import KeyObjects
from hsmkms.hsm.keypairs import KeyPairs
from hsmkms.hsm.own_objects import OwnObjects
from hsmkms.hsm.pair_trials import PairTrials
from hsmkms.hsm.probing.profile import TokenProfile
from hsmkms.hsm.session.connection import Connection, DeviceSettings
from hsmkms.hsm.session.login import PinReader
from hsmkms.hsm.session.module import Module
from hsmkms.hsm.session.registry import OpenDevices

__all__ = ["DeviceSettings", "TokenDevice"]


class TokenDevice:
    """A logged-in token. Thread-safe; of no use in a forked child. Open with ``TokenDevice.open``."""

    def __init__(
        self, settings: DeviceSettings, module: Module, read_pin: PinReader, *, accept_final_try: bool = False
    ) -> None:
        self.connection = Connection(settings, module, read_pin, accept_final_try=accept_final_try)
        import_profiles, pair_trials = ImportProfiles(self.connection), PairTrials(self.connection)
        self.ciphers = Ciphers(self.connection)
        self.pairs = KeyPairs(self.connection, pair_trials)
        self.keys = KeyObjects(self.connection, import_profiles, pair_trials)
        self.imports = Imports(self.connection, import_profiles, self.keys)
        self.own = OwnObjects(self.connection)

    @property
    def profile(self) -> TokenProfile:
        """What the token can do; with the label and serial of the member in use if it is an HA group."""
        return self.connection.profile

    @classmethod
    def open(cls, settings: DeviceSettings, read_pin: PinReader, *, accept_final_try: bool = False) -> "TokenDevice":
        """Load the module, choose the token, log in once, and probe what it can do.

        A token that this process has open already is shared, with the settings of its first opener (only another
        ``host_unwrap`` is refused): the login state is one for the whole process.
        ``accept_final_try``: try the PIN even if one more wrong one would lock the token.
        Raises ModuleError, TokenNotFoundError, PinError, TokenUnfitError or TokenUnavailableError.
        """
        return _open_devices.acquire(settings, read_pin, accept_final_try=accept_final_try)

    def close(self) -> None:
        """Release the device; its last user closes the sessions. The module is finalised with its last device."""
        _open_devices.release(self)


_open_devices: OpenDevices[TokenDevice] = OpenDevices(TokenDevice)
os.register_at_fork(after_in_child=_open_devices.after_fork)
