"""The tables of checks, in the order in which they are made."""

from typing import Final

from hsmkms.hsm.checks import formats, imports, kinds, needed, refused, stored
from hsmkms.hsm.checks.bench import Step, step
from hsmkms.hsm.checks.formats import with_gcm
from hsmkms.hsm.objects.backing_keys import PairTemplate, template_of
from hsmkms.hsm.objects.key_specs import KEY_FACTS
from hsmkms.model.enums import KeySpec, KeyUsage

EVERYTHING: Final = "everything"
CLEAN_UP: Final = "clean-up"

_SYMMETRIC: Final = "KeySpec SYMMETRIC_DEFAULT (Encrypt, Decrypt, ReEncrypt, GenerateDataKey)"
_SEAL_FILE: Final = "name audit.seal_file in the configuration: a file elsewhere, on another machine's disk, say"
_IMPORT: Final = "imported key material: GetParametersForImport, ImportKeyMaterial"


def _of_spec(spec: KeySpec) -> Step:
    if isinstance(template_of(spec, KeyUsage.SIGN_VERIFY), PairTemplate):
        operations = "CreateKey, Sign, Verify" + ", DeriveSharedSecret" * (spec in kinds.AGREEING)
        operations += ", Encrypt, Decrypt" * (spec is kinds.OAEP_CHECKED)
        return step(spec.value, kinds.pair(spec), affects=f"KeySpec {spec}: {operations}")
    if template_of(spec, KeyUsage.ENCAPSULATE_DECAPSULATE) is not None:
        operations = "CreateKey, Encapsulate, Decapsulate"
        return step(spec.value, kinds.encapsulation(spec), affects=f"KeySpec {spec}: {operations}")
    return step(spec.value, kinds.mac(spec), affects=f"KeySpec {spec}: CreateKey, GenerateMac, VerifyMac")


BEFORE_LOGIN: Final = (step("mechanisms", needed.mechanisms, affects=EVERYTHING, needed=True),)
"""Checks that need no login."""

STEPS: Final = (
    step("random numbers", needed.random_numbers, affects=EVERYTHING, needed=True),
    step(
        "AES-256 backing key",
        needed.backing_key,
        affects="KeySpec SYMMETRIC_DEFAULT (CreateKey, rotation)",
        needed=True,
    ),
    step("AES-GCM, computed answer", with_gcm(needed.gcm_computed), affects=_SYMMETRIC, needed=True),
    step("AES-GCM, published vector", with_gcm(needed.gcm_vector), affects=_SYMMETRIC, needed=True),
    step("AES-GCM, IVs", with_gcm(needed.gcm_ivs), affects=_SYMMETRIC, needed=True),
    step("AES-CBC with HMAC", formats.cbc, affects=_SYMMETRIC, needed=True),
    step("installation key", needed.installation_key, affects="the installation's own keys", needed=True),
    step("HMAC-SHA-256", needed.hmac, affects=EVERYTHING, needed=True),
    step("stored keys", stored.stored_key, affects=EVERYTHING, needed=True),
    step("data objects", stored.data_objects, affects="the audit log's newest seal", advice=_SEAL_FILE),
    step("object labels", needed.labels, affects="labels of keys, as other programs show them"),
    *(_of_spec(spec) for spec in KEY_FACTS if spec is not KeySpec.SYMMETRIC_DEFAULT),
    step("data key pairs", kinds.data_key_pairs, affects="GenerateDataKeyPair, GenerateDataKeyPairWithoutPlaintext"),
    Step(names=imports.NAMES, run=imports.imports, affects=_IMPORT),
    step(refused.NAME, refused.material, affects=_IMPORT),
    step(CLEAN_UP, stored.clean_up, affects="nothing but room on the token"),
)
"""Checks that need one."""
