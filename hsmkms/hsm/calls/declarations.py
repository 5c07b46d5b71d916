"""The C types and functions of PKCS#11, as ``scripts/declare.py`` wrote them down for cffi.

Why cffi: ``scripts/bench calls`` compares it with ctypes, the other way that needs no compiler where hsmkms is
installed. A call costs about two thirds, it checks number and types of arguments, and it comes with ``cryptography``
anyway. Like ctypes and python-pkcs11, it releases the GIL around every call.
"""

from typing import Any, Final

from hsmkms.hsm.calls import _declared

ffi: Final[Any] = _declared.ffi
