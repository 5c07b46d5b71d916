"""Grants: which may be made, and which request one allows."""

from collections.abc import Callable
from typing import Any

import pytest
from questions import ALICE, BOB, ROOT, a_grant, ask

from hsmkms.errors import LimitExceededException, ValidationException
from hsmkms.model.crypto import EncryptRequest, ReEncryptRequest
from hsmkms.model.enums import GrantOperation, KeySpec, KeyUsage, Operation
from hsmkms.model.grants import CreateGrantRequest, GrantConstraints
from hsmkms.model.records import KeyRecord
from hsmkms.rules import specs
from hsmkms.rules.iam import grants

PAIRS = {"a": "1", "b": "2"}


def request(*operations: str, **members: Any) -> CreateGrantRequest:  # noqa: ANN401 - members of the request
    """A CreateGrant for bob."""
    return CreateGrantRequest(
        **{"key_id": "k", "operations": list(operations) or ["Encrypt"], "grantee_principal": BOB, **members}
    )


def equals(**pairs: str) -> GrantConstraints:
    """A constraint on the whole context."""
    return GrantConstraints(encryption_context_equals=pairs)


def subset(**pairs: str) -> GrantConstraints:
    """A constraint on some pairs of it."""
    return GrantConstraints(encryption_context_subset=pairs)


SERVICE = "rds.amazonaws.com"
DATABASE = "arn:aws:rds:eu-central-1:111122223333:db:orders"


def for_service(**members: Any) -> CreateGrantRequest:  # noqa: ANN401 - members of the request
    """A CreateGrant for a service of AWS."""
    return request(
        **{
            "grantee_principal": None,
            "grantee_service_principal": SERVICE,
            "retiring_service_principal": SERVICE,
            "constraints": GrantConstraints(source_arn=DATABASE),
            **members,
        }
    )


@pytest.mark.parametrize("spec", KeySpec)
def test_operations_suit_the_key(make_key: Callable[..., KeyRecord], spec: KeySpec) -> None:
    """A grant holds what a key of that spec and usage can do at all, and managing grants and looking at the key."""
    for usage in specs.SPECS[spec].usages:
        possible = grants.possible(make_key(spec=spec, usage=usage))
        assert possible >= {"CreateGrant", "RetireGrant", "DescribeKey"}
        names = {each.removesuffix("From").removesuffix("To") for each in possible}
        able = {each for each, needed in specs.REQUIRED_USAGE.items() if needed is usage}
        if spec is not KeySpec.SYMMETRIC_DEFAULT:
            able -= specs.SYMMETRIC_ONLY
        assert names & set(specs.REQUIRED_USAGE) == able
        asymmetric = specs.family(spec) is specs.Family.ASYMMETRIC
        assert ("GetPublicKey" in possible) is asymmetric


def test_every_operation_can_be_granted_on_some_key(make_key: Callable[..., KeyRecord]) -> None:
    """No word of the enumeration is without a key that it suits."""
    keys = [make_key(spec=spec, usage=usage) for spec, facts in specs.SPECS.items() for usage in facts.usages]
    assert frozenset().union(*map(grants.possible, keys)) == set(GrantOperation)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (request("Sign"), "cannot contain Sign"),
        (CreateGrantRequest(key_id="k", operations=["Encrypt"]), "either a GranteePrincipal"),
        (CreateGrantRequest(key_id="k", operations=[], grantee_principal=BOB), "at least one"),
        (request(grantee_service_principal=SERVICE), "either a GranteePrincipal"),
        (request(retiring_service_principal=SERVICE, retiring_principal=ALICE), "not both"),
        (for_service(grantee_service_principal="rds.example.com"), "no service of AWS"),
        (request(retiring_service_principal="rds.example.com"), "no service of AWS"),
        (for_service(constraints=None), "needs a SourceArn"),
        (for_service(constraints=subset(a="1")), "needs a SourceArn"),
        (for_service(retiring_service_principal=None), "needs a RetiringPrincipal"),
        (request(constraints=equals(**{str(number): "" for number in range(9)})), "8 pairs"),
        (request(constraints=subset(a="x" * 385)), "384 characters"),
    ],
)
def test_what_no_grant_can_be(make_key: Callable[..., KeyRecord], wrong: CreateGrantRequest, sentence: str) -> None:
    """What a grant on a symmetric key cannot be is refused with a sentence."""
    with pytest.raises(ValidationException) as caught:
        grants.check_new(wrong, make_key())
    assert sentence in str(caught.value)


def test_services_as_grantees(make_key: Callable[..., KeyRecord]) -> None:
    """A service of AWS is a grantee with a SourceArn and a retiring principal, on keys of every kind."""
    grants.check_new(for_service(), make_key())
    grants.check_new(for_service(retiring_principal=ALICE, retiring_service_principal=None), make_key())
    signing = make_key(spec=KeySpec.ECC_NIST_P256, usage=KeyUsage.SIGN_VERIFY)
    grants.check_new(for_service(operations=["Sign"]), signing)
    assert (grants.grantee(for_service()), grants.retiring(for_service())) == (SERVICE, SERVICE)


def test_a_source_arn_fits_no_request_here() -> None:
    """A grant with a SourceArn allows nothing here, whatever its other members."""
    grant = a_grant("Encrypt", "DescribeKey", "CreateGrant", source_arn=DATABASE)
    assert grants.allows(a_grant("Encrypt"), ask())
    assert not grants.allows(grant, ask())
    assert not grants.allows(grant, ask("kms:DescribeKey"))
    assert not grants.allows(grant, ask("kms:CreateGrant", request=request("Encrypt")))


def test_only_this_account_retires_as_an_account() -> None:
    """The root of another account as retiring principal does not let a user of this account retire by a policy."""
    question = ask("kms:RetireGrant", user="carol")
    for root, allowed in ((ROOT, True), ("arn:aws:iam::999999999999:root", False), (SERVICE, False), (None, False)):
        assert grants.may_retire(a_grant("Encrypt", retiring=root), question, account_allows=True) is allowed


def test_the_same_grant_has_the_same_source() -> None:
    """With a Name, a request for another resource or another service is no request for the same grant."""
    made = a_grant("Encrypt", grantee=SERVICE, retiring=SERVICE, source_arn=DATABASE)
    assert grants.same(made, for_service())
    assert not grants.same(made, for_service(constraints=GrantConstraints(source_arn=DATABASE + "2")))
    assert not grants.same(made, for_service(grantee_service_principal="s3.amazonaws.com"))


def test_constraints_are_for_symmetric_keys(make_key: Callable[..., KeyRecord]) -> None:
    """Only symmetric keys have an encryption context that could limit a grant."""
    signing = make_key(spec=KeySpec.ECC_NIST_P256, usage=KeyUsage.SIGN_VERIFY)
    grants.check_new(request("Sign", "GetPublicKey"), signing)
    with pytest.raises(ValidationException, match="symmetric"):
        grants.check_new(request("Sign", constraints=equals(a="b")), signing)


def test_quota(make_key: Callable[..., KeyRecord]) -> None:
    """A key has up to 50,000 grants."""
    grants.check_room(49_999, make_key())
    with pytest.raises(LimitExceededException, match="50000"):
        grants.check_room(50_000, make_key())


@pytest.mark.parametrize(
    ("limits", "context", "allowed"),
    [
        ({}, None, True),
        ({"context_equals": PAIRS}, PAIRS, True),
        ({"context_equals": PAIRS}, {**PAIRS, "c": "3"}, False),
        ({"context_equals": PAIRS}, {"a": "1"}, False),
        ({"context_equals": PAIRS}, {"A": "1", "b": "2"}, True),
        ({"context_equals": {"a": "x"}}, {"a": "X"}, False),
        ({"context_equals": {"a": "1"}}, {"a": "1", "A": "2"}, False),
        ({"context_equals": {"a": "1"}}, {"a": "1", "A": "1"}, False),
        ({"context_equals": {"a": "1", "A": "2"}}, {"A": "1", "a": "2"}, True),
        ({"context_subset": {"Level": "low"}}, {"LEVEL": "low", "b": "2"}, True),
        ({"context_subset": {"Level": "low"}}, {"LEVEL": "Low"}, False),
        ({"context_subset": {"Level": "low"}}, {"Level": "low", "LEVEL": "high"}, False),
        ({"context_equals": {}}, None, True),
        ({"context_equals": {}}, {"a": "1"}, False),
        ({"context_subset": PAIRS}, {**PAIRS, "c": "3"}, True),
        ({"context_subset": PAIRS}, {"a": "1"}, False),
        ({"context_subset": PAIRS}, None, False),
        ({"context_subset": {"a": "1"}, "context_equals": PAIRS}, PAIRS, True),
    ],
)
def test_constraints(limits: dict[str, Any], context: dict[str, str] | None, allowed: bool) -> None:  # noqa: FBT001 - a column
    """Equals wants exactly these pairs, Subset at least these; letter case counts in values alone; no key clashes."""
    grant = a_grant("Encrypt", "DescribeKey", **limits)
    question = ask(request=EncryptRequest(key_id="k", plaintext=b"p", encryption_context=context))
    assert grants.allows(grant, question) is allowed
    assert grants.allows(grant, ask("kms:DescribeKey"))
    assert not grants.allows(grant, ask("kms:Decrypt"))


def test_each_side_of_a_re_encryption() -> None:
    """A grant for one side of ReEncrypt is limited by the context of that side."""
    both = ReEncryptRequest(source_encryption_context={"a": "1"}, destination_encryption_context={"a": "2"})
    grant = a_grant("ReEncryptFrom", "ReEncryptTo", context_equals={"a": "1"})
    for side, allowed in (("From", True), ("To", False)):
        question = ask(f"kms:ReEncrypt{side}", operation=Operation.RE_ENCRYPT, request=both)
        assert grants.allows(grant, question) is allowed


@pytest.mark.parametrize(
    ("parent", "child", "allowed"),
    [
        ({}, request("Encrypt"), True),
        ({}, request("Encrypt", "Decrypt"), False),
        ({}, request("Encrypt", constraints=subset(a="1")), True),
        ({"context_subset": {"a": "1"}}, request("Encrypt"), False),
        ({"context_subset": {"a": "1"}}, request("Encrypt", constraints=subset(a="1", b="2")), True),
        ({"context_subset": {"a": "1"}}, request("Encrypt", constraints=equals(a="1")), True),
        ({"context_subset": {"a": "1"}}, request("Encrypt", constraints=equals(a="2")), False),
        ({"context_equals": {"a": "1"}}, request("Encrypt", constraints=equals(a="1")), True),
        ({"context_equals": {"a": "1"}}, request("Encrypt", constraints=equals(A="1")), True),
        ({"context_subset": {"a": "1"}}, request("Encrypt", constraints=subset(A="1", b="2")), True),
        ({"context_subset": {"a": "1"}}, request("Encrypt", constraints=subset(a="1", A="2")), False),
        ({"context_equals": {"a": "1"}}, request("Encrypt", constraints=equals(a="1", b="2")), False),
        ({"context_equals": {"a": "1"}}, request("Encrypt", constraints=subset(a="1")), False),
    ],
)
def test_children_hold_no_more(parent: dict[str, Any], child: CreateGrantRequest, allowed: bool) -> None:  # noqa: FBT001 - a column
    """A grant made by the right of another grant gives no more operations, under no looser constraint."""
    grant = a_grant("Encrypt", "CreateGrant", **parent)
    assert grants.allows(grant, ask("kms:CreateGrant", request=child)) is allowed


def test_same() -> None:
    """The same grant again is one with the same principals, operations in any order, and constraints."""
    grant = a_grant("Encrypt", "Decrypt", grantee=BOB, retiring=ALICE, context_subset={"a": "1"})
    again = request("Decrypt", "Encrypt", retiring_principal=ALICE, constraints=subset(a="1"))
    assert grants.same(grant, again)
    for other in (
        request("Decrypt", "Encrypt", retiring_principal=ROOT, constraints=subset(a="1")),
        request("Decrypt", retiring_principal=ALICE, constraints=subset(a="1")),
        request("Decrypt", "Encrypt", retiring_principal=ALICE),
        request("Decrypt", "Encrypt", retiring_principal=ALICE, constraints=equals(a="1")),
    ):
        assert not grants.same(grant, other)
