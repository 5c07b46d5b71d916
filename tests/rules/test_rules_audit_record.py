"""Which operations an audit record calls read-only, and which are served although no record can be written."""

import pytest

from hsmkms.model.enums import Operation
from hsmkms.rules.audit.record import is_read_only, only_looks

# CloudTrail's readOnly: cryptographic operations change nothing, and the parameters of an import count as read.
USING = """
Decapsulate Decrypt DeriveSharedSecret Encapsulate Encrypt GenerateDataKey GenerateDataKeyPair
GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext GenerateMac GenerateRandom GetParametersForImport
ReEncrypt Sign Verify VerifyMac
"""
LOOKING = """
DescribeCustomKeyStores DescribeKey GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus GetPublicKey ListAliases
ListGrants ListKeyPolicies ListKeyRotations ListKeys ListResourceTags ListRetirableGrants
"""


@pytest.mark.parametrize("operation", list(Operation))
def test_read_only(operation: Operation) -> None:
    """An operation that is in neither list changes something: its records say ``readOnly: false``."""
    assert is_read_only(operation) is (operation in {*USING.split(), *LOOKING.split()})


@pytest.mark.parametrize("operation", list(Operation))
def test_served_without_a_record(operation: Operation) -> None:
    """While the log cannot be written, only operations that read metadata are served."""
    assert only_looks(operation) is (operation in LOOKING.split())
