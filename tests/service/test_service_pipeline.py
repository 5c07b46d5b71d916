"""The pipeline cannot be walked around: every operation is authorised, judged by state, and recorded."""

import ast
import inspect
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from lifecycle import described, new_empty_key, request_to_import, schedule
from msgspec import Struct
from service_sites import ACCOUNT, OTHER_REGION, REGION, new_alias, new_key, seal

import hsmkms
from hsmkms.errors import (
    AccessDeniedException,
    DisabledException,
    HsmKmsError,
    PermitError,
    ValidationException,
)
from hsmkms.kms import Kms
from hsmkms.model import (
    aliases,
    asymmetric,
    crypto,
    custom_key_stores,
    deletion,
    grants,
    importing,
    keys,
    policies,
    rotation,
    tags,
)
from hsmkms.model.caller import Caller
from hsmkms.model.enums import Operation, WrappingAlgorithm, WrappingKeySpec
from hsmkms.model.ids import alias_arn, root_arn
from hsmkms.model.operations import OPERATIONS
from hsmkms.model.permit import Permit
from hsmkms.model.shapes import Tag
from hsmkms.rules.iam.policies import default_policy
from hsmkms.rules.iam.question import Question
from hsmkms.service.pipeline import Call
from hsmkms.store import changes

PACKAGE = Path(hsmkms.__file__).parent
NO_OPERATION = {"open", "close", "caller", "operator"}
UNKNOWN = "12345678-1234-4123-8123-123456789012"

Heard = list[tuple[str, str]]
Recorded = list[tuple[Operation, list[str], HsmKmsError | None]]


# -- the source ---------------------------------------------------------------------------------------------------


def _methods() -> list[ast.FunctionDef]:
    functions: list[ast.FunctionDef] = []
    for module, name in (("kms", "Kms"), ("kms_permissions", "PermissionOperations")):
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        (class_node,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        functions += [node for node in class_node.body if isinstance(node, ast.FunctionDef)]
    return [
        function for function in functions if not function.name.startswith("_") and function.name not in NO_OPERATION
    ]


def _operation_of(method: ast.FunctionDef) -> str:
    """The operation that a method passes to the pipeline; the method may do nothing else."""
    _docstring, *rest = method.body
    (statement,) = rest
    assert isinstance(statement, ast.Return), method.name
    call = statement.value
    assert isinstance(call, ast.Call), method.name
    assert ast.unparse(call.func) == "self._audited", method.name
    operation, _procedure, *others = map(ast.unparse, call.args)
    assert others == ["request", "caller"], method.name
    return operation.removeprefix("Operation.")


def test_every_method_is_the_pipeline() -> None:
    """Every public method of Kms does nothing but to hand its request to the pipeline, under its own name."""
    methods = _methods()
    assert [_operation_of(method) for method in methods] == [method.name.upper() for method in methods]
    assert {_operation_of(method) for method in methods} == {operation.name for operation in OPERATIONS}


def test_run_is_the_pipeline() -> None:
    """The only private method of Kms that runs requests ends in ``pipeline.run_audited``."""
    returned = [
        node for node in ast.walk(ast.parse(inspect.getsource(Kms._audited).strip())) if isinstance(node, ast.Return)
    ]
    assert [ast.unparse(each.value.func) for each in returned if isinstance(each.value, ast.Call)] == ["run_audited"]
    assert len(returned) == 1


@pytest.mark.parametrize("part", ["service/operations", "service/keys", "service/pipeline.py"])
def test_writes_are_named(part: str) -> None:
    """Operations and the life of keys write by ``audited_and_sealed``, whose name says what a commit writes besides."""
    place = PACKAGE / part
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if ast.unparse(call).endswith(".atomic")], path
    assert _makers_of("audited_and_sealed") >= {"service/operations/deletion.py", "service/keys/creation.py"}


class Source(NamedTuple):
    """What a module of the package calls, and what it imports from others, by the last part of the name."""

    called: frozenset[str]
    imported: frozenset[str]


@cache
def _sources() -> dict[str, Source]:
    """The modules of the package by their paths, read once for all tests."""
    return {str(path.relative_to(PACKAGE)): _read(path) for path in PACKAGE.rglob("*.py")}


def _read(path: Path) -> Source:
    called, imported = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called.add(ast.unparse(node.func).split(".")[-1])
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.name for alias in node.names}
    return Source(frozenset(called), frozenset(imported))


def _importers_of(name: str) -> set[str]:
    """The modules of the package that import something of that name, to call it or to hand it on."""
    return {path for path, source in _sources().items() if name in source.imported}


def _makers_of(name: str) -> set[str]:
    """The modules of the package that call something of that name."""
    return {path for path, source in _sources().items() if name in source.called}


def test_permits_are_made_in_two_places() -> None:
    """Permits are made by the pipeline, or for the installation's own acts, and nowhere else."""
    assert _makers_of("Permit") == {"service/pipeline.py", "service/runtime/permits.py"}
    assert _importers_of("own_permit") == {
        "service/backup/create.py",
        "service/backup/recipients.py",
        "service/backup/origin.py",
        "service/runtime/binding.py",
        "service/operator/credentials.py",
        "service/operations/deletion.py",
        "service/keys/destruction.py",
        "service/operator/forgetting.py",
        "service/grant_tokens.py",
        "service/keys/installation_keys.py",
        "service/keys/report_keys.py",
        "service/operator/sweeper.py",
        "service/operator/migration.py",
        "service/operator/key_rotation.py",
        "service/operator/reconcile.py",
        "service/keys/rotate.py",
        "service/runtime/seal_keys.py",
        "service/audit/seal_notes.py",
        "service/keys/service_keys.py",
        "wiring/pin_change.py",
    }


def test_calls_are_made_in_few_places() -> None:
    """A ``Call`` is made by the pipeline, and by attest, the report on access and the simulation, which only read."""
    assert _makers_of("Call") == {
        "service/pipeline.py",
        "service/operator/key_access.py",
        "service/operator/operator.py",
        "service/operator/simulation.py",
    }


def test_every_device_procedure_on_objects_takes_a_permit() -> None:
    """What uses, makes or destroys an object on the token asks for a permit first."""
    parts = {
        "ciphers": "Ciphers",
        "imported": "Imports",
        "key_objects": "KeyObjects",
        "own_objects": "OwnObjects",
        "session/connection": "Connection",
    }
    procedures = [
        node
        for module, part in parts.items()
        for written in ast.parse((PACKAGE / "hsm" / f"{module}.py").read_text()).body
        if isinstance(written, ast.ClassDef) and written.name == part
        for node in written.body
        if isinstance(node, ast.FunctionDef)
    ]
    acting = {"encrypt", "decrypt", "random", "generate_backing_key", "generate_mac_key", "mac", "destroy"}
    acting |= {
        "generate_wrapping_key",
        "fingerprints",
        "unwrap_backing_key",
        "destroy_wrapping_key",
        "notes",
        "holds_note",
        "replace_note",
        "remove_notes",
        "destroy_secret",
        "change_pin",
    }
    asking = {
        procedure.name
        for procedure in procedures
        if len(procedure.args.args) > 1 and procedure.args.args[1].arg == "permit"
    }
    assert asking == acting
    for procedure in procedures:
        if procedure.name in acting:
            assert ast.unparse(procedure.body[1]).startswith("permit.require("), procedure.name


# -- authorise and record -----------------------------------------------------------------------------------------


class Scene(Struct, frozen=True):
    """A key, another one, one pending deletion, one with imported material; an alias and a ciphertext of the first.

    And one that signs, one that makes HMACs, one that agrees on secrets, and sets of one and of two.
    """

    key: keys.KeyMetadata
    other: keys.KeyMetadata
    pending: keys.KeyMetadata
    imported: keys.KeyMetadata
    alias: str
    sealed: bytes
    to_import: importing.ImportKeyMaterialRequest
    signer: keys.KeyMetadata
    maker: keys.KeyMetadata
    agreer: keys.KeyMetadata
    primary: keys.KeyMetadata
    replicated: keys.KeyMetadata
    grant_id: str

    @property
    def alias_arn(self) -> str:
        """The ARN of the alias."""
        return alias_arn(ACCOUNT, REGION, self.alias)


def in_other_region(key: keys.KeyMetadata) -> str:
    """The ARN of the same key in the other region."""
    return key.arn.replace(REGION, OTHER_REGION)


Request = Callable[[Scene], Any]
ROOT = root_arn(ACCOUNT)

PEER = (
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)
REFUSES_ALWAYS = {Operation.ENCAPSULATE, Operation.DECAPSULATE}
"""No token here has ML-KEM."""

TAKES_AN_ANSWER = {Operation.VERIFY, Operation.VERIFY_MAC}
"""Need what Sign and GenerateMac gave; they are admitted by the same lines."""

CASES: dict[Operation, tuple[Request, Callable[[Scene], Heard]]] = {
    Operation.CREATE_KEY: (lambda _: keys.CreateKeyRequest(), lambda _: [("kms:CreateKey", ROOT)]),
    Operation.DESCRIBE_CUSTOM_KEY_STORES: (
        lambda _: custom_key_stores.DescribeCustomKeyStoresRequest(),
        lambda _: [("kms:DescribeCustomKeyStores", ROOT)],
    ),
    Operation.LIST_KEYS: (lambda _: keys.ListKeysRequest(), lambda _: [("kms:ListKeys", ROOT)]),
    Operation.DESCRIBE_KEY: (
        lambda s: keys.DescribeKeyRequest(key_id=s.alias),
        lambda s: [("kms:DescribeKey", s.key.arn)],
    ),
    Operation.ENABLE_KEY: (
        lambda s: keys.EnableKeyRequest(key_id=s.key.key_id),
        lambda s: [("kms:EnableKey", s.key.arn)],
    ),
    Operation.DISABLE_KEY: (
        lambda s: keys.DisableKeyRequest(key_id=s.key.key_id),
        lambda s: [("kms:DisableKey", s.key.arn)],
    ),
    Operation.UPDATE_KEY_DESCRIPTION: (
        lambda s: keys.UpdateKeyDescriptionRequest(key_id=s.key.key_id, description="new"),
        lambda s: [("kms:UpdateKeyDescription", s.key.arn)],
    ),
    Operation.CREATE_ALIAS: (
        lambda s: aliases.CreateAliasRequest(alias_name=f"{s.alias}-2", target_key_id=s.key.key_id),
        lambda s: [("kms:CreateAlias", f"{s.alias_arn}-2"), ("kms:CreateAlias", s.key.arn)],
    ),
    Operation.UPDATE_ALIAS: (
        lambda s: aliases.UpdateAliasRequest(alias_name=s.alias, target_key_id=s.other.key_id),
        lambda s: [
            ("kms:UpdateAlias", s.alias_arn),
            ("kms:UpdateAlias", s.other.arn),
            ("kms:UpdateAlias", s.key.arn),
        ],
    ),
    Operation.DELETE_ALIAS: (
        lambda s: aliases.DeleteAliasRequest(alias_name=s.alias),
        lambda s: [("kms:DeleteAlias", s.alias_arn), ("kms:DeleteAlias", s.key.arn)],
    ),
    Operation.LIST_ALIASES: (lambda _: aliases.ListAliasesRequest(), lambda _: [("kms:ListAliases", ROOT)]),
    Operation.TAG_RESOURCE: (
        lambda s: tags.TagResourceRequest(key_id=s.key.key_id, tags=[Tag(tag_key="a", tag_value="1")]),
        lambda s: [("kms:TagResource", s.key.arn)],
    ),
    Operation.UNTAG_RESOURCE: (
        lambda s: tags.UntagResourceRequest(key_id=s.key.key_id, tag_keys=["first"]),
        lambda s: [("kms:UntagResource", s.key.arn)],
    ),
    Operation.LIST_RESOURCE_TAGS: (
        lambda s: tags.ListResourceTagsRequest(key_id=s.key.key_id),
        lambda s: [("kms:ListResourceTags", s.key.arn)],
    ),
    Operation.ENABLE_KEY_ROTATION: (
        lambda s: rotation.EnableKeyRotationRequest(key_id=s.key.key_id),
        lambda s: [("kms:EnableKeyRotation", s.key.arn)],
    ),
    Operation.DISABLE_KEY_ROTATION: (
        lambda s: rotation.DisableKeyRotationRequest(key_id=s.key.key_id),
        lambda s: [("kms:DisableKeyRotation", s.key.arn)],
    ),
    Operation.GET_KEY_ROTATION_STATUS: (
        lambda s: rotation.GetKeyRotationStatusRequest(key_id=s.key.key_id),
        lambda s: [("kms:GetKeyRotationStatus", s.key.arn)],
    ),
    Operation.LIST_KEY_ROTATIONS: (
        lambda s: rotation.ListKeyRotationsRequest(key_id=s.key.key_id),
        lambda s: [("kms:ListKeyRotations", s.key.arn)],
    ),
    Operation.ROTATE_KEY_ON_DEMAND: (
        lambda s: rotation.RotateKeyOnDemandRequest(key_id=s.key.key_id),
        lambda s: [("kms:RotateKeyOnDemand", s.key.arn)],
    ),
    Operation.REPLICATE_KEY: (
        lambda s: keys.ReplicateKeyRequest(key_id=s.primary.key_id, replica_region=OTHER_REGION),
        lambda s: [("kms:ReplicateKey", s.primary.arn), ("kms:CreateKey", ROOT)],
    ),
    Operation.UPDATE_PRIMARY_REGION: (
        lambda s: keys.UpdatePrimaryRegionRequest(key_id=s.replicated.key_id, primary_region=OTHER_REGION),
        lambda s: [("kms:UpdatePrimaryRegion", arn) for arn in (s.replicated.arn, in_other_region(s.replicated))],
    ),
    Operation.SCHEDULE_KEY_DELETION: (
        lambda s: deletion.ScheduleKeyDeletionRequest(key_id=s.key.key_id),
        lambda s: [("kms:ScheduleKeyDeletion", s.key.arn)],
    ),
    Operation.CANCEL_KEY_DELETION: (
        lambda s: deletion.CancelKeyDeletionRequest(key_id=s.pending.key_id),
        lambda s: [("kms:CancelKeyDeletion", s.pending.arn)],
    ),
    Operation.GET_KEY_LAST_USAGE: (
        lambda s: deletion.GetKeyLastUsageRequest(key_id=s.key.key_id),
        lambda s: [("kms:GetKeyLastUsage", s.key.arn)],
    ),
    Operation.GET_PARAMETERS_FOR_IMPORT: (
        lambda s: importing.GetParametersForImportRequest(
            key_id=s.imported.key_id,
            wrapping_algorithm=WrappingAlgorithm.RSAES_OAEP_SHA_1,
            wrapping_key_spec=WrappingKeySpec.RSA_2048,
        ),
        lambda s: [("kms:GetParametersForImport", s.imported.arn)],
    ),
    Operation.IMPORT_KEY_MATERIAL: (
        lambda s: s.to_import,
        lambda s: [("kms:ImportKeyMaterial", s.imported.arn)],
    ),
    Operation.DELETE_IMPORTED_KEY_MATERIAL: (
        lambda s: importing.DeleteImportedKeyMaterialRequest(key_id=s.imported.key_id),
        lambda s: [("kms:DeleteImportedKeyMaterial", s.imported.arn)],
    ),
    Operation.PUT_KEY_POLICY: (
        lambda s: policies.PutKeyPolicyRequest(key_id=s.key.key_id, policy=default_policy(ACCOUNT)),
        lambda s: [("kms:PutKeyPolicy", s.key.arn)],
    ),
    Operation.GET_KEY_POLICY: (
        lambda s: policies.GetKeyPolicyRequest(key_id=s.key.key_id),
        lambda s: [("kms:GetKeyPolicy", s.key.arn)],
    ),
    Operation.LIST_KEY_POLICIES: (
        lambda s: policies.ListKeyPoliciesRequest(key_id=s.key.key_id),
        lambda s: [("kms:ListKeyPolicies", s.key.arn)],
    ),
    Operation.CREATE_GRANT: (
        lambda s: grants.CreateGrantRequest(key_id=s.key.key_id, grantee_principal=ROOT, operations=["Encrypt"]),
        lambda s: [("kms:CreateGrant", s.key.arn)],
    ),
    Operation.LIST_GRANTS: (
        lambda s: grants.ListGrantsRequest(key_id=s.key.key_id),
        lambda s: [("kms:ListGrants", s.key.arn)],
    ),
    Operation.LIST_RETIRABLE_GRANTS: (
        lambda _: grants.ListRetirableGrantsRequest(retiring_principal=ROOT),
        lambda _: [("kms:ListRetirableGrants", ROOT)],
    ),
    Operation.RETIRE_GRANT: (
        lambda s: grants.RetireGrantRequest(key_id=s.key.arn, grant_id=s.grant_id),
        lambda s: [("kms:RetireGrant", s.key.arn)],
    ),
    Operation.REVOKE_GRANT: (
        lambda s: grants.RevokeGrantRequest(key_id=s.key.key_id, grant_id=s.grant_id),
        lambda s: [("kms:RevokeGrant", s.key.arn)],
    ),
    Operation.ENCRYPT: (
        lambda s: crypto.EncryptRequest(key_id=s.alias, plaintext=b"p"),
        lambda s: [("kms:Encrypt", s.key.arn)],
    ),
    Operation.DECRYPT: (
        lambda s: crypto.DecryptRequest(ciphertext_blob=s.sealed),
        lambda s: [("kms:Decrypt", s.key.arn)],
    ),
    Operation.RE_ENCRYPT: (
        lambda s: crypto.ReEncryptRequest(ciphertext_blob=s.sealed, destination_key_id=s.other.key_id),
        lambda s: [("kms:ReEncryptTo", s.other.arn), ("kms:ReEncryptFrom", s.key.arn)],
    ),
    Operation.GENERATE_DATA_KEY: (
        lambda s: crypto.GenerateDataKeyRequest(key_id=s.key.key_id, key_spec="AES_256"),
        lambda s: [("kms:GenerateDataKey", s.key.arn)],
    ),
    Operation.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: (
        lambda s: crypto.GenerateDataKeyWithoutPlaintextRequest(key_id=s.key.key_id, key_spec="AES_256"),
        lambda s: [("kms:GenerateDataKeyWithoutPlaintext", s.key.arn)],
    ),
    Operation.GENERATE_DATA_KEY_PAIR: (
        lambda s: crypto.GenerateDataKeyPairRequest(key_id=s.key.key_id, key_pair_spec="ECC_NIST_P256"),
        lambda s: [("kms:GenerateDataKeyPair", s.key.arn)],
    ),
    Operation.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT: (
        lambda s: crypto.GenerateDataKeyPairWithoutPlaintextRequest(key_id=s.key.key_id, key_pair_spec="ECC_NIST_P256"),
        lambda s: [("kms:GenerateDataKeyPairWithoutPlaintext", s.key.arn)],
    ),
    Operation.SIGN: (
        lambda s: asymmetric.SignRequest(key_id=s.signer.key_id, message=b"m", signing_algorithm="ECDSA_SHA_256"),
        lambda s: [("kms:Sign", s.signer.arn)],
    ),
    Operation.GET_PUBLIC_KEY: (
        lambda s: asymmetric.GetPublicKeyRequest(key_id=s.signer.key_id),
        lambda s: [("kms:GetPublicKey", s.signer.arn)],
    ),
    Operation.GENERATE_MAC: (
        lambda s: asymmetric.GenerateMacRequest(key_id=s.maker.key_id, message=b"m", mac_algorithm="HMAC_SHA_256"),
        lambda s: [("kms:GenerateMac", s.maker.arn)],
    ),
    Operation.DERIVE_SHARED_SECRET: (
        lambda s: asymmetric.DeriveSharedSecretRequest(
            key_id=s.agreer.key_id, key_agreement_algorithm="ECDH", public_key=PEER
        ),
        lambda s: [("kms:DeriveSharedSecret", s.agreer.arn)],
    ),
    Operation.GENERATE_RANDOM: (
        lambda _: crypto.GenerateRandomRequest(number_of_bytes=8),
        lambda _: [("kms:GenerateRandom", ROOT)],
    ),
}
"""For every operation a request, and what must be authorised for it, in this order."""


class Untouchable:
    """In place of the device, where nothing may reach it."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"the device was reached: {name}")


@pytest.fixture(scope="module")
def to_import(kms: Kms) -> importing.ImportKeyMaterialRequest:
    """A request that brings material to a key of its own, as often as one likes."""
    return request_to_import(kms, new_empty_key(kms))


@pytest.fixture
def stages(kms: Kms) -> Iterator[None]:
    """Leaves the stages of the pipeline as they were before the test."""
    tokens, authorise = kms._core.tokens, kms._core.authorise
    yield
    kms._core.tokens = tokens
    kms._core.authorise = authorise
    kms._core.write_audit_record = kms._core.audit.record


@pytest.fixture
def scene(kms: Kms, to_import: importing.ImportKeyMaterialRequest, stages: None) -> Scene:  # noqa: ARG001 - restores them
    """What the operations work on; afterwards the stages of the pipeline are as they were."""
    return made_scene(kms, to_import)


@pytest.fixture(scope="module")
def shared_scene(kms: Kms, to_import: importing.ImportKeyMaterialRequest) -> Scene:
    """The same for tests that change nothing of it."""
    return made_scene(kms, to_import)


def made_scene(kms: Kms, to_import: importing.ImportKeyMaterialRequest) -> Scene:
    """Make what the operations work on."""
    key = new_key(kms, tags=[Tag(tag_key="first", tag_value="")])
    alias = f"alias/p-{key.key_id}"
    new_alias(kms, alias, key.key_id)
    pending, imported = new_key(kms), described(kms, to_import.key_id)
    schedule(kms, pending.key_id)
    signer = new_key(kms, key_spec="ECC_NIST_P256", key_usage="SIGN_VERIFY")
    maker = new_key(kms, key_spec="HMAC_256", key_usage="GENERATE_VERIFY_MAC")
    agreer = new_key(kms, key_spec="ECC_NIST_P256", key_usage="KEY_AGREEMENT")
    primary, replicated = (new_key(kms, multi_region=True) for _ in range(2))
    kms.replicate_key(keys.ReplicateKeyRequest(key_id=replicated.key_id, replica_region=OTHER_REGION))
    sealed = seal(kms, key.key_id)
    others = (signer, maker, agreer, primary, replicated)
    granted = grants.CreateGrantRequest(key_id=key.key_id, grantee_principal=ROOT, operations=["Decrypt"])
    grant_id = kms.create_grant(granted).grant_id
    return Scene(key, new_key(kms), pending, imported, alias, sealed, to_import, *others, grant_id)


def call(kms: Kms, operation: Operation, scene: Scene, caller: Caller | None = None) -> Any:  # noqa: ANN401 - a response of any type
    """Call the method of an operation with its request of ``CASES``."""
    return getattr(kms, operation.name.lower())(CASES[operation][0](scene), caller)


def asked_of(question: Question) -> tuple[str, str]:
    """Action and resource of a question; what is about no key is recorded under the account."""
    return question.action, ROOT if question.resource == "*" else question.resource


def epoch(kms: Kms) -> int:
    """The number of the last change to the control plane."""
    with kms._core.store.reading() as conn:
        return changes.latest(conn)


def test_cases_are_complete() -> None:
    """The table above has every operation that needs nothing of another one."""
    assert set(CASES) == set(OPERATIONS) - REFUSES_ALWAYS - TAKES_AN_ANSWER


@pytest.mark.parametrize("operation", CASES)
def test_authorised_and_recorded(kms: Kms, scene: Scene, operation: Operation) -> None:
    """Every operation asks for its actions on its resources, for its caller, and is recorded with them once."""
    heard: Heard = []
    recorded: Recorded = []
    callers: set[str] = set()

    def authorise(question: Question) -> None:
        callers.add(question.caller.request_id)
        heard.append(asked_of(question))

    def record(done: Call, _request: object, _response: object, error: HsmKmsError | None) -> None:
        callers.add(done.caller.request_id)
        recorded.append((done.operation, list(done.resources), error))

    kms._core.authorise, kms._core.write_audit_record = authorise, record  # type: ignore[assignment]  # nobody asks it more
    caller = kms.caller(REGION)
    answer = call(kms, operation, scene, caller)
    expected = CASES[operation][1](scene)
    assert heard == expected
    made = [answer.key_metadata.arn] if operation is Operation.CREATE_KEY else []
    made += [answer.replica_key_metadata.arn] if operation is Operation.REPLICATE_KEY else []
    assert recorded == [(operation, [resource for _, resource in expected] + made, None)]
    assert callers == {caller.request_id}


def _refusals() -> list[tuple[Operation, int]]:
    key = _blank_key()
    blank = Scene(key, key, key, key, "alias/x", b"", importing.ImportKeyMaterialRequest(), *[key] * 5, "")
    return [(operation, number) for operation, (_, expected) in CASES.items() for number in range(len(expected(blank)))]


def _blank_key() -> keys.KeyMetadata:
    words = dict.fromkeys(keys.KeyMetadata.__struct_fields__, "")
    return keys.KeyMetadata(**words)  # type: ignore[arg-type]  # only its ARN is asked for


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize(("operation", "number"), _refusals())
def test_refusal_stops_everything(kms: Kms, shared_scene: Scene, operation: Operation, number: int) -> None:
    """A refusal of any of its actions stops an operation: no token call, no change, but a record of it."""
    asked: Heard = []
    recorded: Recorded = []
    refusal = AccessDeniedException("no")

    def authorise(question: Question) -> None:
        asked.append(asked_of(question))
        if len(asked) == number + 1:
            raise refusal

    kms._core.authorise = authorise  # type: ignore[assignment]  # nobody asks it more
    kms._core.write_audit_record = lambda done, _request, _response, error: recorded.append(
        (done.operation, list(done.resources), error)
    )
    kms._core.tokens = Untouchable()  # type: ignore[assignment]
    before = epoch(kms)
    with pytest.raises(AccessDeniedException, match="no"):
        call(kms, operation, shared_scene)
    expected = CASES[operation][1](shared_scene)[: number + 1]
    assert asked == expected
    assert recorded == [(operation, [resource for _, resource in expected], refusal)]
    assert epoch(kms) == before


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize(
    ("caller_region", "request_", "error"),
    [
        (REGION, crypto.EncryptRequest(key_id=UNKNOWN, plaintext=b""), "ValidationException"),
        (REGION, crypto.EncryptRequest(key_id=UNKNOWN, plaintext=b"p"), "NotFoundException"),
        ("us-west-2", crypto.EncryptRequest(key_id=UNKNOWN, plaintext=b"p"), "ValidationException"),
    ],
)
def test_refused_requests_are_recorded(
    kms: Kms, caller_region: str, request_: crypto.EncryptRequest, error: str
) -> None:
    """A request that is refused before any key is resolved is recorded as well, with its error."""
    recorded: Recorded = []
    kms._core.write_audit_record = lambda done, _request, _response, fault: recorded.append(
        (done.operation, list(done.resources), fault)
    )
    with pytest.raises(HsmKmsError):
        kms.encrypt(request_, kms.caller(caller_region))
    ((done, resources, fault),) = recorded
    assert (done, resources, fault.code if fault else None) == (Operation.ENCRYPT, [], error)


def test_validation_comes_before_the_key(kms: Kms) -> None:
    """A request that is wrong in itself is refused before its key is looked up."""
    with pytest.raises(ValidationException, match="'plaintext'"):
        kms.encrypt(crypto.EncryptRequest(key_id=UNKNOWN, plaintext=b""))


# -- permits ------------------------------------------------------------------------------------------------------


def _call(kms: Kms, operation: Operation) -> Call:
    return Call(kms._core, operation, kms.caller(REGION))


@pytest.mark.parametrize("operation", [Operation.ENCRYPT, Operation.DECRYPT, Operation.GENERATE_DATA_KEY])
def test_no_permit_for_a_disabled_key(kms: Kms, scene: Scene, operation: Operation) -> None:
    """There is no leave to use a disabled key, whether it is named by the request or by a ciphertext."""
    kms.disable_key(keys.DisableKeyRequest(key_id=scene.key.key_id))
    with pytest.raises(DisabledException):
        _call(kms, operation).key(scene.key.key_id)
    with pytest.raises(DisabledException):
        _call(kms, operation).key_of_ciphertext(scene.key.key_id)


def test_permit_is_for_one_key(kms: Kms, shared_scene: Scene) -> None:
    """A permit covers the materials of one key only, and one operation."""
    cached, permit = _call(kms, Operation.ENCRYPT).key(shared_scene.key.key_id)
    other, _ = _call(kms, Operation.ENCRYPT).key(shared_scene.other.key_id)
    assert permit.version == cached.record.version
    device = kms._core.device
    device.ciphers.encrypt(permit, cached.current_cka_id, b"p", b"")
    with pytest.raises(PermitError, match="does not cover"):
        device.ciphers.encrypt(permit, other.current_cka_id, b"p", b"")
    with pytest.raises(PermitError, match="Encrypt was shown"):
        device.keys.destroy(permit, cached.current_cka_id)
    spent = Permit(permit.operation, permit.covers, permit.version, time.monotonic() - 1)
    with pytest.raises(PermitError, match="run out"):
        device.ciphers.encrypt(spent, cached.current_cka_id, b"p", b"")


def test_describing_gives_no_leave_to_encrypt(kms: Kms, shared_scene: Scene) -> None:
    """The permit of an operation that reads cannot be used to encrypt."""
    cached, permit = _call(kms, Operation.DESCRIBE_KEY).key(shared_scene.key.key_id)
    with pytest.raises(PermitError, match="DescribeKey was shown"):
        kms._core.device.ciphers.encrypt(permit, cached.current_cka_id, b"p", b"")


def test_refusal_in_the_other_region(kms: Kms, shared_scene: Scene) -> None:
    """The caller's region decides: a permit for a key of another region cannot be had."""
    with pytest.raises(AccessDeniedException):
        Call(kms._core, Operation.DECRYPT, kms.caller(OTHER_REGION)).key_of_ciphertext(shared_scene.key.key_id)


def test_tags_of_a_new_key_are_authorised_too(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """CreateKey with tags wants the permission to tag as well."""
    asked: list[str] = []
    monkeypatch.setattr(kms._core, "authorise", lambda question: asked.append(question.action))
    kms.create_key(keys.CreateKeyRequest(tags=[Tag(tag_key="team", tag_value="red")]))
    assert asked == ["kms:CreateKey", "kms:TagResource"]


def test_a_bug_is_recorded(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that ends in an unexpected exception is recorded all the same."""
    recorded: list[tuple[Operation, str]] = []

    def broken(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(
        kms._core, "write_audit_record", lambda *heard: recorded.append((heard[0].operation, type(heard[3]).__name__))
    )
    monkeypatch.setattr(kms._core.device.ciphers, "random", broken)
    with pytest.raises(ZeroDivisionError):
        kms.generate_random(crypto.GenerateRandomRequest(number_of_bytes=1))
    assert recorded == [(Operation.GENERATE_RANDOM, "KMSInternalException")]
