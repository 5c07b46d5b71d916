"""Several users over the endpoint with boto3, each with credentials and permissions of their own."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError
from cli_site import Site
from conftest import NewSite
from served import ACCOUNT, Served, credentials, serving

pytestmark = pytest.mark.xdist_group("served")

Client = Any
"""boto3 makes its classes at run time."""

ROOT: Final = f"arn:aws:iam::{ACCOUNT}:root"
USE: Final = ["kms:Encrypt", "kms:Decrypt"]


def arn(name: str) -> str:
    """The ARN of a user."""
    return f"arn:aws:iam::{ACCOUNT}:user/{name}"


def document(*statements: dict[str, Any]) -> str:
    """A policy's text."""
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Resource": "*"} | statement for statement in statements]}
    )


def refused(client: Client, operation: str, **members: object) -> str:
    """The message of the AccessDeniedException that a call must end with."""
    with pytest.raises(ClientError) as caught:
        getattr(client, operation)(**members)
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return str(caught.value.response["Error"]["Message"])


@pytest.fixture(scope="module")
def served(new_site: NewSite) -> Iterator[tuple[Site, Served, dict[str, Client]]]:
    """A server, and a client for the root, for alice and for bob."""
    site = new_site()
    names = ("alice", "bob")
    made = credentials(
        site,
        *(("create_user", {"name": each}) for each in names),
        *(("create_access_key", {"user_name": each}) for each in (None, *names)),
    )
    with serving(site) as server:
        clients = {
            name: server.endpoint(key).client() for name, key in zip(("root", *names), made[len(names) :], strict=True)
        }
        yield site, server, clients


def test_three_users(served: tuple[Site, Served, dict[str, Client]]) -> None:
    """The key policy names alice, bob's own policy lets him list, a grant lets him decrypt; neither has more."""
    site, _, clients = served
    root, alice, bob = clients["root"], clients["alice"], clients["bob"]
    policy = document(
        {"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*"},
        {"Effect": "Allow", "Principal": {"AWS": arn("alice")}, "Action": USE},
    )
    key = root.create_key(Policy=policy)["KeyMetadata"]
    sealed = alice.encrypt(KeyId=key["KeyId"], Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
    message = refused(bob, "decrypt", CiphertextBlob=sealed, EncryptionContext={"a": "b"})
    assert message == (
        f"User: {arn('bob')} is not authorized to perform: kms:Decrypt on resource: {key['Arn']} "
        "because no identity-based policy allows the kms:Decrypt action"
    )
    refused(alice, "schedule_key_deletion", KeyId=key["KeyId"])
    refused(alice, "list_keys")

    listing = document({"Effect": "Allow", "Action": "kms:ListKeys"})
    credentials(site, ("put_user_policy", {"name": "bob", "policy_name": "list", "document": listing}))
    assert key["KeyId"] in {each["KeyId"] for each in bob.list_keys()["Keys"]}

    grant = root.create_grant(
        KeyId=key["KeyId"],
        GranteePrincipal=arn("bob"),
        RetiringPrincipal=arn("alice"),
        Operations=["Decrypt"],
        Constraints={"EncryptionContextSubset": {"a": "b"}},
    )
    members = {"CiphertextBlob": sealed, "EncryptionContext": {"a": "b"}}
    assert bob.decrypt(**members, GrantTokens=[grant["GrantToken"]])["Plaintext"] == b"x"
    assert bob.decrypt(**members)["Plaintext"] == b"x"
    refused(bob, "encrypt", KeyId=key["KeyId"], Plaintext=b"x")
    refused(bob, "retire_grant", GrantToken=grant["GrantToken"])
    alice.retire_grant(GrantToken=grant["GrantToken"])
    refused(bob, "decrypt", **members)


def test_the_address_and_the_connection(served: tuple[Site, Served, dict[str, Client]]) -> None:
    """aws:SourceIp is the address of the connection, and aws:SecureTransport is false without TLS."""
    site, _, clients = served
    bob = clients["bob"]
    for condition, allowed in (
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, True),
        ({"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}, False),
        ({"Bool": {"aws:SecureTransport": "false"}}, True),
    ):
        policy = document({"Effect": "Allow", "Action": "kms:GenerateRandom", "Condition": condition})
        credentials(site, ("put_user_policy", {"name": "bob", "policy_name": "random", "document": policy}))
        if allowed:
            assert len(bob.generate_random(NumberOfBytes=8)["Plaintext"]) == 8
        else:
            refused(bob, "generate_random", NumberOfBytes=8)
