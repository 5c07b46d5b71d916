"""One guard against objects that outlive a fork.

A PKCS#11 module is undefined in a forked child, and everything that was fetched ahead (IVs, leases, connections)
would be used twice: SoftHSM even goes on encrypting there, with the parent's IVs. So whatever holds such state takes
a ``ForkGuard`` when it is made and asks it before each use.
"""

import os

from hsmkms.errors import ForkedProcessError


class _Generation:
    """How many forks lie between the first process and this one."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def advance(self) -> None:
        self.number += 1


_current = _Generation()
os.register_at_fork(after_in_child=_current.advance)


class ForkGuard:
    """Remembers the process that made it."""

    __slots__ = ("_made_in",)

    def __init__(self) -> None:
        self._made_in = _current.number

    @property
    def foreign(self) -> bool:
        """True in a child that was forked after the guard was made."""
        return self._made_in != _current.number

    def check(self) -> None:
        """Raise ForkedProcessError in a child that was forked after the guard was made."""
        if self._made_in != _current.number:
            raise ForkedProcessError(
                "this object was made before a fork and must not be used in the child: "
                "open a new Kms in the child process"
            )
