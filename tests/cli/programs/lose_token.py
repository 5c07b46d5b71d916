"""Runs the command line on a token that goes away after a number of decryptions."""

import itertools
import sys
from typing import Any

from hsmkms.cli.main import main
from hsmkms.errors import TokenUnavailableError
from hsmkms.hsm.ciphers import Ciphers

calls, most, decrypt = itertools.count(1), int(sys.argv.pop(1)), Ciphers.decrypt


def fail_later(*arguments: Any) -> bytes:  # noqa: ANN401 - whatever decrypt takes
    """Decrypt a few times, and then no more."""
    if next(calls) > most:
        raise TokenUnavailableError("the token does not answer (DeviceRemoved)")
    return decrypt(*arguments)


Ciphers.decrypt = fail_later  # type: ignore[method-assign]
main()
