"""Makes SoftHSM tokens in one folder, each with the label and the PIN of the arguments; prints module and variable."""

import json
import sys
from contextlib import suppress
from pathlib import Path

from hsmkms.errors import TokenNotFoundError
from hsmkms.hsm.session import softhsm

folder, label, pin = sys.argv[1:4]
module = softhsm.find_module()
made = softhsm.create(module, Path(folder), label=label, user_pin=pin, so_pin="battery staple")
if sys.argv[4:]:
    # A second one of the same label: the label alone does not distinguish it from the first.
    softhsm._initialise(module, made.environment, label, "battery staple")
    with suppress(TokenNotFoundError):
        softhsm._set_user_pin(module, made.environment, label, pin, "battery staple")
print(json.dumps({"module": str(module), **made.environment}))  # noqa: T201
