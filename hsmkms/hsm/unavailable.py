"""A token that could not be reached: a device of which nothing can be asked."""

from typing import Never

from hsmkms.errors import HsmKmsError


class AwayDevice:
    """Stands in the place of a device; each of its parts is the fault that kept the token away."""

    def __init__(self, fault: HsmKmsError) -> None:
        self._fault = fault

    @property
    def connection(self) -> Never:
        """Raise the fault, without the traceback of the times before: it would grow, and keep their frames alive."""
        raise self._fault.with_traceback(None)

    profile = ciphers = pairs = imports = keys = own = connection

    def close(self) -> None:
        """There is nothing to close."""
