"""Makes a token of NSS softokn in a folder, with a PIN; prints the string for pReserved of C_Initialize."""

import sys
from pathlib import Path

from hsmkms.hsm.session import module as modules

module, folder, label, pin = sys.argv[1:]
Path(folder).mkdir(mode=0o700)
reserved = f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='{label}'"
loaded = modules.acquire(Path(module), reserved=reserved)
(token,) = [each for each in (slot.get_token() for slot in loaded.slots()) if each.label == label]
session = token.open(rw=True, so_pin="")
session.init_pin(pin)
session.close()
loaded.release()
print(reserved)  # noqa: T201
