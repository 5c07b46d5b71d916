"""Change the PIN after another tool has changed it on the token; print the error."""

import sys

import pkcs11

from hsmkms.config.settings import Secret
from hsmkms.errors import PinError
from hsmkms.hsm.session import module as modules
from hsmkms.hsm.session.token_choice import TokenChoice, choose
from hsmkms.wiring import core as wiring
from hsmkms.wiring import pin_change

settings = wiring.load_settings()
core = wiring.core_of(settings)
right = (settings.data_dir / "pin").read_text().strip()
assert settings.token.module is not None
module = modules.acquire(settings.token.module, environment=settings.token.environment)
session: pkcs11.Session = choose(module, TokenChoice(label=settings.token.label)).open(rw=True)
session.set_pin(right, "what others have set")
try:
    pin_change.change_pin(core, settings, settings.token, Secret("another PIN"))
except PinError as exc:
    sys.stdout.write(str(exc))
