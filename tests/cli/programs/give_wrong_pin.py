"""Send a wrong PIN to the installation's token, as another program might."""

import contextlib
import os

import pkcs11

from hsmkms.wiring import core as wiring
from hsmkms.wiring import tokens as token_wiring

settings = token_wiring.device_settings(wiring.load_settings())
os.environ |= settings.environment
(token,) = pkcs11.lib(str(settings.module)).get_tokens(token_label=settings.choice.label)
with contextlib.suppress(pkcs11.exceptions.PinIncorrect), token.open(user_pin="wrong"):
    pass
