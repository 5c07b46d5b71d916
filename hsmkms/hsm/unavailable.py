"""A token that could not be reached: a device of which nothing can be asked."""

from typing import Any

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.device import Device


class AwayDevice(Device):
    """Stands in the place of a device, and raises the fault that kept it away at whatever is asked of it."""

    def __init__(self, fault: HsmKmsError) -> None:
        object.__setattr__(self, "_fault", fault)

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401 - whatever a device has
        """Raise the fault."""
        if name in ("__class__", "close"):
            return object.__getattribute__(self, name)
        raise object.__getattribute__(self, "_fault")

    def close(self) -> None:
        """There is nothing to close."""
