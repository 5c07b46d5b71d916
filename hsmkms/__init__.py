"""hsmkms: a key management service on the operator's own HSM.

::

    from hsmkms import Kms

    with Kms.open("hsmkms.toml") as kms:
        ...
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsmkms.kms import Kms

__all__ = ["Kms"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    """Load the database and PKCS#11 layers with the first use of ``Kms``: the command line's help needs neither."""
    if name == "Kms":
        from hsmkms.kms import Kms  # noqa: PLC0415 - see above

        return Kms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
