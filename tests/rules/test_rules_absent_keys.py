"""Condition keys that no request here has: all are known, and decide as IAM says of absent keys."""

import pytest
from questions import (
    ACCOUNT,
    DELEGATING,
    allow,
    ask,
    decided,
    document,
    key_policy,
    mine,
    own,
)

from hsmkms.errors import MalformedPolicyDocumentException
from hsmkms.model.crypto import EncryptRequest
from hsmkms.model.enums import Operation
from hsmkms.model.grants import CreateGrantRequest, GrantConstraints
from hsmkms.rules.iam import condition_keys
from hsmkms.rules.iam.absent_keys import ABSENT
from hsmkms.rules.iam.policies import read_own_policy

GLOBAL = """
aws:AssumedRoot aws:CalledVia aws:CalledViaAWSMCP aws:CalledViaFirst aws:CalledViaLast aws:ChatbotSourceArn
aws:CurrentTime aws:Ec2InstanceSourcePrivateIPv4 aws:Ec2InstanceSourceVpc aws:EpochTime aws:FederatedProvider
aws:IsMcpServiceAction aws:MultiFactorAuthAge aws:MultiFactorAuthPresent aws:PrincipalAccount aws:PrincipalArn
aws:PrincipalIsAWSService aws:PrincipalOrgID aws:PrincipalOrgPaths aws:PrincipalServiceName
aws:PrincipalServiceNamesList aws:PrincipalTag/k aws:PrincipalType aws:referer aws:RequestedRegion aws:RequestTag/k
aws:ResourceAccount aws:ResourceOrgID aws:ResourceOrgPaths aws:ResourceTag/k aws:SecureTransport aws:SignInSessionArn
aws:SourceAccount aws:SourceArn aws:SourceIdentity aws:SourceIp aws:SourceOrgID aws:SourceOrgPaths aws:SourceVpc
aws:SourceVpcArn aws:SourceVpce aws:TagKeys aws:TokenIssueTime aws:UserAgent aws:userid aws:username
aws:ViaAWSMCPService aws:ViaAWSService aws:VpceAccount aws:VpceOrgID aws:VpceOrgPaths aws:VpcSourceIp codebuild:BuildArn
codebuild:ProjectArn ec2:RoleDelivery ec2:SourceInstanceArn glue:CredentialIssuingService glue:RoleAssumedBy
identitystore:UserId lambda:SourceFunctionArn ssm:SourceInstanceArn
"""
"""Typed from the list at the head of IAM's page on global keys, and those of role sessions beside them."""

OF_KMS = """
kms:BypassPolicyLockoutSafetyCheck kms:CallerAccount kms:CustomerMasterKeySpec kms:CustomerMasterKeyUsage
kms:DataKeyPairSpec kms:EncryptionAlgorithm kms:EncryptionContext:k kms:EncryptionContextKeys kms:ExpirationModel
kms:GrantConstraintSourceArn kms:GrantConstraintType kms:GranteePrincipal kms:GranteeServicePrincipal
kms:GrantIsForAWSResource kms:GrantOperations kms:KeyAgreementAlgorithm kms:KeyOrigin kms:KeySpec kms:KeyUsage
kms:MacAlgorithm kms:MessageType kms:MultiRegion kms:MultiRegionKeyType kms:PrimaryRegion
kms:RecipientAttestation:ImageSha384 kms:RecipientAttestation:NitroTPMPCR0 kms:RecipientAttestation:NitroTPMPCR23
kms:RecipientAttestation:PCR0 kms:RecipientAttestation:PCR31 kms:ReEncryptOnSameKey kms:ReplicaRegion kms:RequestAlias
kms:ResourceAliases kms:RetiringPrincipal kms:RetiringServicePrincipal kms:RotationPeriodInDays
kms:ScheduleKeyDeletionPendingWindowInDays kms:SigningAlgorithm kms:TrailingDaysWithoutKeyUsage kms:ValidTo
kms:ViaService kms:WrappingAlgorithm kms:WrappingKeySpec
"""
"""Typed from the list of AWS KMS in the service authorization reference."""


@pytest.mark.parametrize("name", (GLOBAL + OF_KMS).split())
def test_every_key_is_known(name: str) -> None:
    """Every global condition key of IAM, and every one of AWS KMS, can be named."""
    assert condition_keys.find(name).name.lower() == name.lower()


def test_no_other_key_is_known() -> None:
    """What the tables above do not have is refused."""
    known = set((GLOBAL + OF_KMS).lower().split())
    numbered = ("kms:recipientattestation:pcr", "kms:recipientattestation:nitrotpmpcr")
    others = {name.lower() for name in condition_keys.NAMES} - known
    assert [other for other in others if not other.startswith(numbered)] == ["kms:policyname"]  # of PutKeyPolicy, older


HOLDS_IF_ABSENT = [
    ("StringEquals", "x", False),
    ("StringLike", "*", False),
    ("StringEqualsIgnoreCase", "x", False),
    ("StringNotEquals", "x", True),
    ("StringNotLike", "*", True),
    ("StringNotEqualsIgnoreCase", "x", True),
    ("StringEqualsIfExists", "x", True),
    ("StringLikeIfExists", "x", True),
    ("StringNotEqualsIfExists", "x", True),
    ("ForAnyValue:StringEquals", "x", False),
    ("ForAnyValue:StringLike", "*", False),
    ("ForAnyValue:StringNotEquals", "x", False),
    ("ForAnyValue:StringEqualsIfExists", "x", False),
    ("ForAnyValue:StringNotEqualsIfExists", "x", False),
    ("ForAllValues:StringEquals", "x", True),
    ("ForAllValues:StringNotEquals", "x", True),
    ("ForAllValues:StringEqualsIfExists", "x", True),
    ("Null", "true", True),
    ("Null", "false", False),
    ("Null", ["true", "false"], True),
]
"""Operators with an operand, and what IAM's guide says of a request without the key."""


@pytest.mark.parametrize("key", [each.name for each in ABSENT])
@pytest.mark.parametrize(("operator", "operand", "holds"), HOLDS_IF_ABSENT)
def test_absent_keys(key: str, operator: str, operand: object, holds: bool) -> None:  # noqa: FBT001 - a column
    """In Allow and Deny each operator holds as IAM says where the request does not have the key, and a note says so."""
    condition = {operator: {key: operand}}
    policy = key_policy(allow("*", Condition=condition))
    assert decided(ask(user_agent="x"), policy).allowed is holds
    against = own(mine("*"), mine("*", "Deny", Condition=condition))
    assert decided(ask(user_agent="x"), DELEGATING, against).allowed is not holds
    assert policy.notes == (
        f"Statement 1: no request here has {key}: {operator} {'always' if holds else 'never'} holds.",
    )


@pytest.mark.parametrize(
    ("operator", "key", "operand", "holds"),
    [
        ("ArnLike", "aws:SourceArn", "arn:*:*:*:*:*", False),
        ("ArnNotEquals", "aws:SourceVpcArn", "arn:aws:ec2:eu-central-1:1:vpc/v", True),
        ("Bool", "aws:MultiFactorAuthPresent", "false", False),
        ("BoolIfExists", "aws:MultiFactorAuthPresent", "true", True),
        ("BoolIfExists", "aws:MultiFactorAuthPresent", "false", True),
        ("NumericLessThan", "aws:MultiFactorAuthAge", "3600", False),
        ("NumericNotEquals", "ec2:RoleDelivery", "2", True),
        ("DateLessThan", "aws:TokenIssueTime", "2030-01-01", False),
        ("IpAddress", "aws:VpcSourceIp", "0.0.0.0/0", False),
        ("NotIpAddress", "aws:VpcSourceIp", "0.0.0.0/0", True),
    ],
)
def test_absent_keys_of_other_kinds(operator: str, key: str, operand: str, holds: bool) -> None:  # noqa: FBT001 - a column
    """The same of ARNs, truth values, numbers, dates and addresses."""
    assert decided(ask(), key_policy(allow("*", Condition={operator: {key: operand}}))).allowed is holds


def test_notes_are_about_their_statement() -> None:
    """A note names its statement, stands there once, and belongs to that statement alone."""
    text = document(
        mine("kms:Encrypt", Resource="*", Sid="plain"),
        mine("kms:Decrypt", Resource="*", Sid="vpc", Condition={"StringEquals": {"aws:SourceVpc": ["a", "b"]}}),
        mine("kms:Decrypt", Resource="*", Condition={"StringEquals": {"aws:SourceVpc": "a", "aws:username": "b"}}),
    )
    policy = read_own_policy(text, ACCOUNT)
    assert policy.notes == (
        "Statement 2 (vpc): no request here has aws:SourceVpc: StringEquals never holds.",
        "Statement 3: no request here has aws:SourceVpc: StringEquals never holds.",
    )
    assert policy.allows["kms:Encrypt"][0].notes == ()
    assert [each.notes for each in policy.allows["kms:Decrypt"]] == [policy.notes[:1], policy.notes[1:]]


def test_a_variable_of_an_absent_key_has_no_value() -> None:
    """A policy variable of such a key fits nothing, but for its default."""
    for operand, holds in (("${aws:PrincipalOrgID}", False), ("${aws:PrincipalOrgID, 'alice'}", True)):
        condition = {"StringEquals": {"aws:username": operand}}
        assert decided(ask(), key_policy(allow("*", Condition=condition))).allowed is holds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kms:GranteeServicePrincipal", "rds.amazonaws.com"),
        ("kms:RetiringServicePrincipal", "rds.amazonaws.com"),
        ("kms:GrantConstraintSourceArn", "arn:aws:rds:eu-central-1:111122223333:db:orders"),
        ("kms:GrantConstraintType", "SourceArn"),
    ],
)
def test_grants_for_services(key: str, value: str) -> None:
    """Conditions can ask for the service, and the resource, that a grant is to be for; other requests have neither."""
    request = CreateGrantRequest(
        key_id="k",
        operations=["Decrypt"],
        grantee_service_principal="rds.amazonaws.com",
        retiring_service_principal="rds.amazonaws.com",
        constraints=GrantConstraints(source_arn="arn:aws:rds:eu-central-1:111122223333:db:orders"),
    )
    plain = CreateGrantRequest(key_id="k", operations=["Decrypt"], grantee_principal="arn:aws:iam::1:user/x")
    policy = key_policy(allow("*", Condition={"StringEquals": {key: value}}))
    assert decided(ask("kms:CreateGrant", request=request), policy).allowed
    assert not decided(ask("kms:CreateGrant", request=plain), policy).allowed
    assert not decided(ask(), policy).allowed
    assert condition_keys.find("kms:GranteePrincipal").value(ask("kms:CreateGrant", request=request)) is None


@pytest.mark.parametrize("action", ["kms:DisableKey", "kms:ScheduleKeyDeletion"])
def test_days_without_use(action: str) -> None:
    """How long a key was not used decides whether it may be disabled or deleted, and nothing else."""
    unused = {"Condition": {"NumericGreaterThan": {"kms:TrailingDaysWithoutKeyUsage": "30"}}}
    policy = key_policy(allow("*", **unused))
    for days, allowed in ((0, False), (30, False), (31, True), (None, False)):
        question = ask(action, operation=Operation(action.removeprefix("kms:")), request=EncryptRequest())
        question.days_without_use = lambda days=days: days  # type: ignore[misc]
        assert decided(question, policy).allowed is allowed
        encryption = ask()
        encryption.days_without_use = question.days_without_use
        assert not decided(encryption, policy).allowed


def test_user_agents() -> None:
    """aws:UserAgent is what the client calls itself."""
    policy = key_policy(allow("*", Condition={"StringLike": {"aws:UserAgent": "Boto3/*"}}))
    assert decided(ask(user_agent="Boto3/1.40 md/x"), policy).allowed
    assert not decided(ask(user_agent="curl/8"), policy).allowed
    assert not decided(ask(), policy).allowed


def test_lists_that_requests_have_want_a_quantifier() -> None:
    """Only of a list that is always absent it is clear without ForAnyValue or ForAllValues what holds."""
    with pytest.raises(MalformedPolicyDocumentException, match="several values"):
        key_policy(allow("*", Condition={"StringEquals": {"aws:TagKeys": "x"}}))
    assert key_policy(allow("*", Condition={"StringEquals": {"aws:CalledVia": "x"}})).notes
