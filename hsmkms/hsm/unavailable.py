"""Stand-in for the device of a token that could not be reached: whatever is used of it raises the fault."""

from typing import Never

from hsmkms.errors import HsmKmsError


class UnavailableDevice:
    """A device each of whose parts raises the fault that kept the token away."""

    def __init__(self, fault: HsmKmsError) -> None:
        self._fault = fault

    @property
    def connection(self) -> Never:
        """Raise the fault, without the traceback of earlier raises: it would grow, and keep their frames alive."""
        raise self._fault.with_traceback(None)

    profile = ciphers = pairs = imports = keys = own = connection

    def close(self) -> None:
        """Do nothing: no session is open."""
