"""Define the condition keys of IAM and AWS KMS that no request to hsmkms ever has.

They concern AWS's networks, organisations, role sessions and services. Policies may name them; conditions are then
evaluated as IAM does if the key is absent from the request. Sources: IAM User Guide, "AWS global condition
context keys"; AWS KMS Developer Guide, "Condition keys for AWS KMS" and "Condition keys for attested platforms".
"""

from collections.abc import Iterator
from typing import Final

from hsmkms.rules.iam.condition_key import ConditionKey, Kind, Value
from hsmkms.rules.iam.question import Question

_SINGLE: Final = {
    Kind.WORD: (
        *("aws:AssumedRoot", "aws:CalledViaAWSMCP", "aws:CalledViaFirst", "aws:CalledViaLast"),
        *("aws:Ec2InstanceSourceVpc", "aws:FederatedProvider", "aws:PrincipalOrgID", "aws:PrincipalServiceName"),
        *("aws:referer", "aws:ResourceOrgID", "aws:SourceAccount", "aws:SourceIdentity", "aws:SourceOrgID"),
        *("aws:SourceVpc", "aws:SourceVpce", "aws:VpceAccount", "aws:VpceOrgID"),
        *("glue:CredentialIssuingService", "glue:RoleAssumedBy", "identitystore:UserId", "kms:ViaService"),
        "kms:RecipientAttestation:ImageSha384",
        *(f"kms:RecipientAttestation:PCR{number}" for number in range(32)),
        *(f"kms:RecipientAttestation:NitroTPMPCR{number}" for number in range(24)),
    ),
    Kind.ARN: (
        *("aws:ChatbotSourceArn", "aws:SignInSessionArn", "aws:SourceArn", "aws:SourceVpcArn"),
        *("codebuild:BuildArn", "codebuild:ProjectArn", "ec2:SourceInstanceArn", "lambda:SourceFunctionArn"),
        "ssm:SourceInstanceArn",
    ),
    Kind.BOOL: ("aws:IsMcpServiceAction", "aws:MultiFactorAuthPresent", "aws:ViaAWSMCPService"),
    Kind.NUMBER: ("aws:MultiFactorAuthAge", "ec2:RoleDelivery"),
    Kind.DATE: ("aws:TokenIssueTime",),
    Kind.ADDRESS: ("aws:Ec2InstanceSourcePrivateIPv4", "aws:VpcSourceIp"),
}
_LISTS: Final = (
    *("aws:CalledVia", "aws:PrincipalOrgPaths", "aws:PrincipalServiceNamesList", "aws:ResourceOrgPaths"),
    *("aws:SourceOrgPaths", "aws:VpceOrgPaths"),
)


def _absent(_: Question) -> Value:
    """Return no value for any question."""
    return None


def _keys() -> Iterator[ConditionKey]:
    for kind, names in _SINGLE.items():
        yield from (ConditionKey(name, kind, _absent, absent=True) for name in names)
    yield from (ConditionKey(name, Kind.WORD, _absent, several=True, absent=True) for name in _LISTS)


ABSENT: Final = tuple(_keys())
"""All condition keys that are always absent."""
