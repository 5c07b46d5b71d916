"""``serve --dev`` and the pytest plugin: a test double in one command, gone when it ends."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from published_policies import terraform_module, text

from hsmkms.server.dev import SHADOWING
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
    """Token, databases and PIN are in a temporary folder, and nothing of them is left, whatever signal ends it."""
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
        lines = [process.stdout.readline() if process.stdout else "" for _ in range(5 + len(SHADOWING))]
        script = "".join(lines) + "env | grep ^AWS_ | sort"
        before = {"PATH": "/bin", "AWS_REGION": "x"} | dict.fromkeys(itertools.chain(*SHADOWING), "x")
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=before)
    values = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert sorted(values) == [
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_KMS",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
    ]
    assert values["AWS_REGION"] == values["AWS_DEFAULT_REGION"] == "us-east-1"


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        (("--host", "::1"), "http://[::1]:"),
        (("--host", "localhost"), "http://localhost:"),
        (("--host", "0.0.0.0", "--plain-http"), "http://127.0.0.1:"),  # noqa: S104 - the server of this test
        (("--host", "::", "--plain-http"), "http://[::1]:"),
    ],
    ids=["IPv6", "name", "everywhere", "everywhere, IPv6"],
)
def test_printed_url_answers(tmp_path: Path, options: tuple[str, ...], begin: str) -> None:
    """Whatever address it listens on, the URL that it prints is one that answers."""
    if "::" in options[1] and not has_ipv6():
        pytest.skip("there is no IPv6 here")
    with development(tmp_path, *options) as process:
        endpoint = read_endpoint(process)
        assert endpoint.url.startswith(begin)
        assert endpoint.client().list_keys()["Keys"] == []


def has_ipv6() -> bool:
    """True if the loopback of IPv6 can be listened on."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_keys_of_every_service(kms_client: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
    """Each service's key exists at its first use, as in an account of AWS; what is no service's name has none."""
    for service in ("s3", "ebs", "secretsmanager"):
        described = kms_client.describe_key(KeyId=f"alias/aws/{service}")["KeyMetadata"]
        assert (described["KeyManager"], described["KeyState"]) == ("AWS", "Enabled")
    arn = "arn:aws:kms:us-east-1:000000000000:alias/aws/rds"
    assert kms_client.encrypt(KeyId=arn, Plaintext=b"x")["KeyId"] != described["Arn"]
    listed = {
        alias["AliasName"] for page in kms_client.get_paginator("list_aliases").paginate() for alias in page["Aliases"]
    }
    assert listed >= {"alias/aws/s3", "alias/aws/rds"}
    assert "alias/aws/*" not in listed
    for name in ("alias/aws/", "alias/aws/S3", "alias/aws/a/b", "alias/aws/-"):
        with pytest.raises(kms_client.exceptions.NotFoundException):
            kms_client.describe_key(KeyId=name)


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
