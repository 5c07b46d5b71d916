"""Check that a module survives material that it cannot unwrap: any caller of ImportKeyMaterial can send such material.

Some module crashes at it (opencryptoki 3.27), so this is never tried in a process that serves.
"""

import os
from typing import Final

from pkcs11.constants import MechanismFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism

from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench, Finding
from hsmkms.hsm.ckr_names import ckr_of
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256
from hsmkms.hsm.imports.unwrapping import Source
from hsmkms.hsm.imports.wrapping import make_pair
from hsmkms.hsm.objects.attributes import WRAPPING_KEY
from hsmkms.hsm.objects.handle_keys import HandleUnwrapper
from hsmkms.hsm.objects.objects import handle_of
from hsmkms.model.token_check import Outcome

NAME: Final = "refused material"

_BITS: Final = 2048
_ID: Final = b"hsmkms refused 1"


def material(bench: Bench) -> Finding:
    """Unwrap random blocks with a session key pair by each OAEP hash; the token must refuse them, and go on."""
    public, private = make_pair(bench.session, WRAPPING_KEY, _BITS, _ID, CHECK_LABEL, bench.support, store=False)
    try:
        key = HandleUnwrapper(bench.session, handle_of(private), KeyType.RSA)
        codes = set()
        for oaep in (OAEP_SHA_1, OAEP_SHA_256):
            block = b"\0" + os.urandom(_BITS // 8 - 1)  # less than the modulus, as every real one
            try:
                Source(key, Mechanism.RSA_PKCS_OAEP, oaep.parameters, block).unwrap(
                    KeyType.GENERIC_SECRET, MechanismFlag.SIGN
                ).destroy()
            except PKCS11Error as exc:
                codes.add(ckr_of(exc))
            else:
                return Finding(Outcome.LIMITED, f"the token unwrapped a random block by {oaep}")
    finally:
        public.destroy()
        private.destroy()
    return Finding(Outcome.WORKS, f"random blocks are refused ({', '.join(sorted(codes))}), and the module goes on")
