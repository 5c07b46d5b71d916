"""``serve --dev`` and the pytest plugin: a test double in one command, gone when it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from published_policies import terraform_module, text

from hsmkms.testing import Endpoint, read_endpoint

SECONDS = 120


@contextmanager
def development(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """A server that makes its temporary files in a folder."""
    command = [sys.executable, "-m", "hsmkms", "serve", "--dev", *options]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gone_when_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    """Token, databases and PIN are in a temporary folder, and nothing of them is left, however it is told to end."""
    with development(tmp_path, "--account-id", "123456789012", "--workers", "2") as process:
        endpoint = read_endpoint(process)
        key = endpoint.client().create_key()["KeyMetadata"]
        assert key["Arn"].startswith("arn:aws:kms:us-east-1:123456789012:key/")
        assert list(tmp_path.rglob("*.db"))
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(tmp_path: Path) -> None:
    """Two servers share nothing: neither port, keys nor credentials."""
    with development(tmp_path) as first, development(tmp_path) as second:
        one, other = read_endpoint(first), read_endpoint(second)
        assert one.url != other.url
        key_id = one.client().create_key()["KeyMetadata"]["KeyId"]
        client = other.client()
        with pytest.raises(client.exceptions.NotFoundException):
            client.describe_key(KeyId=key_id)


def test_lines_for_the_shell(tmp_path: Path) -> None:
    """What it prints can be read by a shell, and is all that the aws CLI needs."""
    with development(tmp_path) as process:
        lines = [process.stdout.readline() if process.stdout else "" for _ in range(4)]
        script = "".join(lines) + "env | grep ^AWS_ | sort"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/bin"})
    names = [line.partition("=")[0] for line in done.stdout.splitlines()]
    assert names == ["AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_KMS", "AWS_SECRET_ACCESS_KEY"]


def test_roles_may_be_named(hsmkms_endpoint: Endpoint) -> None:
    """Policies and grants may name roles and services, as in an account where there are such."""
    client = hsmkms_endpoint.client()
    account = client.create_key()["KeyMetadata"]["AWSAccountId"]
    policy = text(terraform_module(account))
    made = client.create_key(Policy=policy)["KeyMetadata"]
    shown = client.get_key_policy(KeyId=made["KeyId"])["Policy"]
    assert json.loads(shown) == json.loads(policy)
    role = f"arn:aws:iam::{account}:role/division/app"
    client.create_grant(KeyId=made["KeyId"], GranteePrincipal=role, Operations=["Decrypt"])
    client.create_grant(
        KeyId=made["KeyId"],
        GranteeServicePrincipal="rds.amazonaws.com",
        RetiringServicePrincipal="rds.amazonaws.com",
        Operations=["Decrypt"],
        Constraints={"SourceArn": f"arn:aws:rds:us-east-1:{account}:db:orders"},
    )
    listed = client.list_grants(KeyId=made["KeyId"])["Grants"]
    assert {each.get("GranteePrincipal"): each.get("GranteeServicePrincipal") for each in listed} == {
        role: None,
        None: "rds.amazonaws.com",
    }


def test_wrong_account(tmp_path: Path) -> None:
    """An account that is none is refused in one line, and nothing is left."""
    with development(tmp_path, "--account-id", "12345") as process:
        with pytest.raises(RuntimeError, match="ended with status"):
            read_endpoint(process)
        assert process.wait(SECONDS) != 0
    assert list(tmp_path.iterdir()) == []


def test_environment(hsmkms_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plugin's variables a program's own boto3 client finds the server by itself."""
    import boto3  # noqa: PLC0415 - as a program under test would

    for name, value in hsmkms_endpoint.environment().items():
        monkeypatch.setenv(name, value)
    assert len(boto3.client("kms").generate_random(NumberOfBytes=8)["Plaintext"]) == 8
