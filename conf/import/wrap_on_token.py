#!/usr/bin/env python3
"""Wrap a key of a PKCS#11 token under the public key of an import, without its leaving that token in the clear.

Needs python-pkcs11 and cryptography, which hsmkms has, the token's module, and nothing of hsmkms itself; --help lists
its options. The key must have CKA_EXTRACTABLE, and not CKA_WRAP_WITH_TRUSTED. The public key, and the AES key of the
RSA_AES_KEY_WRAP algorithms, are session objects: nothing stays on the token.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass

HASHES = {"SHA_1": (Mechanism.SHA_1, MGF.SHA1), "SHA_256": (Mechanism.SHA256, MGF.SHA256)}
OAEP, TWO_LAYERS = "RSAES_OAEP_", "RSA_AES_KEY_WRAP_"


def main() -> None:
    """Read the command line, and write the wrapped key into a new file."""
    options = parse()
    try:
        wrapped = wrapped_key(options)
        with options.out.open("xb") as file:
            file.write(wrapped)
    except pkcs11.PKCS11Error as exc:
        fault = ": ".join(filter(None, (type(exc).__name__, str(exc))))
        sys.exit(f"the token refuses it ({fault}): can it do {options.algorithm}, and are module, label and PIN right?")
    except OSError as exc:
        sys.exit(f"{exc.filename}: {exc.strerror}")
    sys.stdout.write(f"{options.out}: {len(wrapped)} bytes, {options.algorithm}\n")


def wrapped_key(options: argparse.Namespace) -> bytes:
    """Log in to the token, and wrap the key there."""
    pin = options.pin_file.read_text().rstrip("\n")
    token = pkcs11.lib(str(options.module)).get_token(token_label=options.token_label)
    with token.open(rw=True, user_pin=pin) as session:
        public = add_public_key(session, options.public_key.read_bytes())
        return wrap(session, public, find_key(session, options.key_label), options.algorithm)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Wrap a key of a PKCS#11 token for an import.")
    parser.add_argument("--module", type=Path, required=True, help="the token's PKCS#11 module")
    parser.add_argument("--token-label", required=True)
    parser.add_argument("--pin-file", type=Path, required=True, help="a file with the user PIN of the token")
    parser.add_argument("--key-label", required=True, help="label of the secret or private key to wrap")
    parser.add_argument("--public-key", type=Path, required=True, help="PublicKey of get-parameters-for-import, in DER")
    algorithms = [f"{kind}{digest}" for kind in (OAEP, TWO_LAYERS) for digest in HASHES]
    parser.add_argument("--algorithm", choices=algorithms, required=True, help="that of get-parameters-for-import")
    parser.add_argument("--out", type=Path, required=True, help="a new file")
    return parser.parse_args()


def find_key(session: Any, label: str) -> Any:  # noqa: ANN401 - python-pkcs11 makes its classes at run time
    """Return the one secret or private key with this label."""
    keys = [
        key
        for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY)
        for key in session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label})
    ]
    if len(keys) != 1:
        sys.exit(f"{len(keys)} secret or private keys of the token have the label {label}: one is needed")
    if not keys[0][Attribute.EXTRACTABLE]:
        sys.exit(f"the token does not let go of {label}, not even wrapped: its CKA_EXTRACTABLE is false")
    return keys[0]


def add_public_key(session: Any, der: bytes) -> Any:  # noqa: ANN401 - as above
    """Put the public key of the import on the token, for this session."""
    key = load_der_public_key(der)
    if not isinstance(key, RSAPublicKey):
        sys.exit("the public key is not an RSA key: use PublicKey of get-parameters-for-import")
    numbers = key.public_numbers()
    template = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: KeyType.RSA,
        Attribute.TOKEN: False,
        Attribute.WRAP: True,
        Attribute.MODULUS: numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8),
        Attribute.PUBLIC_EXPONENT: numbers.e.to_bytes(3),
    }
    return session.create_object(template)


def wrap(session: Any, public: Any, key: Any, algorithm: str) -> bytes:  # noqa: ANN401 - as above
    """Wrap a key on the token: by RSA-OAEP, or by an AES key (RFC 5649) that RSA-OAEP wraps."""
    digest, mask = HASHES[algorithm.removeprefix(OAEP).removeprefix(TWO_LAYERS)]
    oaep = {"mechanism": Mechanism.RSA_PKCS_OAEP, "mechanism_param": (digest, mask, None)}
    if algorithm.startswith(OAEP):
        return bytes(public.wrap_key(key, **oaep))
    only_wrap = {Attribute.EXTRACTABLE: True, Attribute.WRAP: True}
    aes = session.generate_key(KeyType.AES, 256, store=False, template=only_wrap)
    return bytes(public.wrap_key(aes, **oaep)) + bytes(aes.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD))


if __name__ == "__main__":
    main()
