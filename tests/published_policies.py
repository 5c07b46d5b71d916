"""The gist of key policies as people publish them, for an account in eu-central-1: what each is for, as JSON."""

import json
from typing import Any

Statement = dict[str, Any]

USE = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
ADMINISTER = [
    *("kms:CancelKeyDeletion", "kms:Create*", "kms:Delete*", "kms:Describe*", "kms:Disable*", "kms:Enable*"),
    *("kms:Get*", "kms:ImportKeyMaterial", "kms:List*", "kms:Put*", "kms:ReplicateKey", "kms:Revoke*"),
    *("kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:Update*"),
]
HAND_ON = ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"]
FOR_SERVICES = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
ENDPOINT = "vpce-0123456789abcdef0"


def iam(account: str, rest: str) -> str:
    """A principal of the account."""
    return f"arn:aws:iam::{account}:{rest}"


def statement(
    sid: str, principal: object, action: object, condition: Statement | None = None, effect: str = "Allow"
) -> Statement:
    """One statement about the key."""
    made: Statement = {"Sid": sid, "Effect": effect, "Principal": principal, "Action": action, "Resource": "*"}
    return made if condition is None else made | {"Condition": condition}


def owner(account: str) -> Statement:
    """The account, whose own policies decide."""
    return statement("Enable IAM User Permissions", {"AWS": iam(account, "root")}, "kms:*")


def terraform_module(account: str) -> list[Statement]:
    """A module's: administrators, users, users of services, instances that scale, DNSSEC. Alice is all, by a user."""
    scaling = iam(account, "role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling")
    people = {"AWS": [iam(account, "role/division/operators"), iam(account, "user/alice")]}
    dnssec = {"Service": "dnssec-route53.amazonaws.com"}
    zones = {
        "StringEquals": {"aws:SourceAccount": [account]},
        "ArnLike": {"aws:SourceArn": "arn:aws:route53:::hostedzone/*"},
    }
    return [
        statement("Default", {"AWS": iam(account, "root")}, "kms:*"),
        statement("KeyAdministration", people, ADMINISTER),
        statement("KeyUsage", people, USE),
        statement("KeyServiceUsage", people, HAND_ON, FOR_SERVICES),
        statement("KeyServiceRolesASG", {"AWS": scaling}, USE),
        statement("KeyServiceRolesASGPersistentVol", {"AWS": scaling}, "kms:CreateGrant", FOR_SERVICES),
        statement("Route53DnssecService", dnssec, ["kms:Sign", "kms:GetPublicKey", "kms:DescribeKey"], zones),
        statement("Route53DnssecGrant", dnssec, "kms:CreateGrant", FOR_SERVICES | zones),
    ]


def cloudwatch_logs(account: str) -> list[Statement]:
    """Log groups, named by the encryption context."""
    groups = {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:eu-central-1:{account}:log-group:*"}}
    service = {"Service": "logs.eu-central-1.amazonaws.com"}
    return [owner(account), statement("", service, ["kms:Encrypt*", "kms:Decrypt*", "kms:Describe*"], groups)]


def parameter_store(account: str) -> list[Statement]:
    """SSM parameters: all principals of the account, through the service."""
    through = {"StringEquals": {"kms:ViaService": "ssm.eu-central-1.amazonaws.com", "kms:CallerAccount": account}}
    return [owner(account), statement("through SSM", {"AWS": "*"}, USE, through)]


def performance_insights(account: str, *, via_service: bool = True) -> list[Statement]:
    """RDS Performance Insights: pairs of the encryption context, by ForAnyValue."""
    pairs = {
        "ForAnyValue:StringEquals": {
            "kms:EncryptionContext:aws:pi:service": "rds",
            "kms:EncryptionContext:service": "pi",
            "kms:EncryptionContext:aws:rds:db-id": ["db-AAAAABBBBBCCCCDDDDDEEEEE", "db-2"],
        }
    }
    through = {"StringEquals": {"kms:ViaService": "rds.eu-central-1.amazonaws.com"}} if via_service else {}
    people = {"AWS": [iam(account, "role/insights"), iam(account, "user/alice")]}
    return [owner(account), statement("insights", people, USE, pairs | through)]


def node_roles(account: str) -> list[Statement]:
    """Nodes of EKS: roles and sessions of them, beside a user."""
    nodes = [
        iam(account, "role/eksctl-cluster-nodegroup-NodeInstanceRole-1ABC"),
        f"arn:aws:sts::{account}:assumed-role/eksctl-cluster-nodegroup-NodeInstanceRole-1ABC/i-0123456789abcdef0",
        iam(account, "user/alice"),
    ]
    return [
        owner(account),
        statement("nodes", {"AWS": nodes}, USE),
        statement("volumes", {"AWS": nodes}, HAND_ON, FOR_SERVICES),
    ]


def all_but_some(account: str) -> list[Statement]:
    """A Deny for all but some, by ArnNotLike."""
    some = [iam(account, "role/app-*"), iam(account, "user/alice")]
    against = statement("but some", "*", "kms:Decrypt", {"ArnNotLike": {"aws:PrincipalArn": some}}, "Deny")
    return [owner(account), against]


def endpoint_only(account: str, operator: str = "StringNotEquals") -> list[Statement]:
    """A Deny for callers that do not come through an endpoint of a VPC."""
    condition = {operator: {"aws:SourceVpce": ENDPOINT}, "BoolIfExists": {"aws:ViaAWSService": "false"}}
    return [owner(account), statement("endpoint", "*", ["kms:Encrypt", "kms:Decrypt"], condition, "Deny")]


PUBLISHED = {
    each.__name__: each
    for each in (
        terraform_module,
        cloudwatch_logs,
        parameter_store,
        performance_insights,
        node_roles,
        all_but_some,
        endpoint_only,
    )
}


def text(statements: list[Statement]) -> str:
    """The document."""
    return json.dumps({"Version": "2012-10-17", "Id": "published", "Statement": statements})
