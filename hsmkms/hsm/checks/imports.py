"""Checks of what the import of key material needs; a token without it keeps generated keys all the same."""

from collections.abc import Callable
from typing import Final

from pkcs11.mechanisms import KeyType

from hsmkms.hsm.checks.bench import Bench, Finding
from hsmkms.hsm.crypto.oaep_params import OAEP_SHA_1, OAEP_SHA_256, Oaep
from hsmkms.hsm.imports.probe import probe_import
from hsmkms.hsm.imports.wrapping import AES_CMAC, ImportProfile, Lengths
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.hsm.objects.mac_mechanisms import MAC_OF
from hsmkms.model.token_check import Outcome

_KINDS: Final = tuple(
    spec
    for spec, facts in KEY_FACTS.items()
    if facts.key_type in (KeyType.RSA, KeyType.EC, KeyType.EC_EDWARDS) or spec in MAC_OF
)
"""Specs, besides that of symmetric keys, whose material AWS KMS imports."""

_OTHER_ALGORITHM: Final = "import with another wrapping algorithm, or generate the keys on the token"


def imports(bench: Bench) -> dict[str, Finding]:
    """Wrap samples in this process and unwrap them on the token."""
    profile = probe_import(bench.token, bench.session, bench.support, host_unwrap=False, every_kind=True)
    return {name: check(profile) for name, check in _CHECKS.items()}


def _oaep(oaep: Oaep) -> Callable[[ImportProfile], Finding]:
    def check(profile: ImportProfile) -> Finding:
        if oaep in profile.oaep:
            return Finding(Outcome.WORKS, "unwraps what was wrapped elsewhere")
        detail = profile.refusal or "does not unwrap: key material that is wrapped so cannot be imported"
        return Finding(Outcome.LIMITED, detail, _OTHER_ALGORITHM)

    return check


def _key_wrap(profile: ImportProfile) -> Finding:
    if profile.key_wrap:
        return Finding(Outcome.WORKS, "unwraps what was wrapped elsewhere, with an AES key that OAEP unwrapped")
    detail = "does not unwrap: no key material can be imported with RSA_AES_KEY_WRAP"
    return Finding(Outcome.LIMITED, detail, _OTHER_ALGORITHM)


def _cmac(profile: ImportProfile) -> Finding:
    if AES_CMAC in profile.prfs:
        return Finding(Outcome.WORKS, "equals an independent computation; it names imported key material")
    detail = "not there or not right: HMAC-SHA-256 names imported key material"
    return Finding(Outcome.LIMITED, detail, "nothing: hsmkms uses HMAC-SHA-256 instead")


def _lengths(profile: ImportProfile) -> Finding:
    if profile.lengths is Lengths.HONEST:
        return Finding(Outcome.WORKS, profile.lengths.value)
    proven = profile.lengths is Lengths.PROBED
    advice = "nothing: hsmkms proves the length itself" if proven else "generate the keys on the token"
    return Finding(Outcome.LIMITED, profile.lengths.value, advice)


def _kinds(profile: ImportProfile) -> Finding:
    refused = [spec for spec in _KINDS if not profile.imports(KEY_FACTS[spec])]
    if not refused:
        return Finding(Outcome.WORKS, "key pairs and HMAC keys of every KeySpec that AWS KMS imports")
    taken = ", ".join(spec for spec in _KINDS if spec not in refused) or "none"
    detail = f"besides symmetric keys these can be imported: {taken}; these cannot: {', '.join(refused)}"
    return Finding(Outcome.LIMITED, detail, "create keys of these with Origin AWS_KMS: the token generates them")


_CHECKS: Final[dict[str, Callable[[ImportProfile], Finding]]] = {
    "OAEP SHA-1": _oaep(OAEP_SHA_1),
    "OAEP SHA-256": _oaep(OAEP_SHA_256),
    "AES-KWP": _key_wrap,
    "AES-CMAC": _cmac,
    "honest lengths": _lengths,
    "imported kinds": _kinds,
}

NAMES: Final = tuple(_CHECKS)
