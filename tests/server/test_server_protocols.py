"""A protocol is one row: its requests, its errors and its refusals are its own, and the others stay as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NewSite
from served import PROGRAMS, SECONDS, credentials

from hsmkms.server import protocols
from hsmkms.server.aws.served import AWS
from hsmkms.server.heartbeat import Heartbeat
from hsmkms.server.messages import RawRequest, Response
from hsmkms.server.unavailable_app import StandIn

JSON = "application/x-amz-json-1.1"
SIGNED = RawRequest("POST", "/", "", {"authorization": "AWS4-HMAC-SHA256 x"}, b"")
STRANGE = RawRequest("POST", "/other", "", {}, b"")


def test_a_second_protocol(new_site: NewSite) -> None:
    """Its requests and large bodies get its answers; whatever no other protocol takes is answered in AWS's form."""
    site = new_site()
    (made,) = credentials(site, ("create_access_key", {"user_name": None}))
    keys = (made["access_key_id"], made["secret_access_key"])
    done = subprocess.run(
        [sys.executable, PROGRAMS / "second_protocol.py", site.config, *keys],
        capture_output=True,
        check=False,
        timeout=SECONDS,
        env=site.environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done.stderr.decode()
    echoed, large, random, unsigned, refused = json.loads(done.stdout)
    assert echoed == [200, "text/plain", "hello"]
    assert large == [400, "text/plain", "nothing large to /other"]
    assert random[:2] == [200, JSON]
    assert unsigned[:2] == [400, JSON]
    assert "MissingAuthenticationTokenException" in unsigned[2]
    assert refused[:2] == [400, JSON]
    assert "BadRequestException" in refused[2]


def test_the_last_row_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier row takes its own requests, and no others."""
    assert protocols.protocol_of(STRANGE) is protocols.DEFAULT is protocols.PROTOCOLS[-1]
    monkeypatch.setattr(protocols, "OTHERS", [AWS])
    monkeypatch.setattr(protocols, "DEFAULT", None)
    assert protocols.protocol_of(SIGNED) is AWS
    assert protocols.protocol_of(STRANGE) is None


def test_while_the_token_is_away(tmp_path: Path) -> None:
    """What answers in the place of a worker does so in the protocol's form."""
    responses: list[Response] = []
    StandIn(tmp_path, Heartbeat())(SIGNED, "", responses.append)
    assert [(response.status, response.error) for response in responses] == [(503, "DependencyTimeoutException")]
    assert dict(responses[0].headers)["Content-Type"] == JSON
