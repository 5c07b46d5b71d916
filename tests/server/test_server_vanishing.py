"""The server while its token's objects vanish, or another token is in its place: away is what it says, and no more."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import NewSite
from msgspec import Struct
from raw_client import call
from served import Served, credentials, serving, set_in
from swapping import TokenFolder
from waiting import until

from hsmkms.config import settings as config
from hsmkms.config.settings import TokenSettings
from hsmkms.testing import Endpoint

pytestmark = pytest.mark.xdist_group("served")

AWAY = (503, "DependencyTimeoutException")
TOLD = {
    "folder": "no token fits",
    "objects": "cannot be seen",
    "initialised again": "cannot be seen",
    "another serial": "another token answers in the place of",
}
"""What /readyz says: what is known of the token, and no more."""

BACK_SECONDS = 10.0
"""The five seconds of the promise, and what a busy machine adds."""


class Vanishing(Struct):
    """A server with two workers, the folder of its token, a key and a ciphertext of it."""

    server: Served
    folder: TokenFolder
    root: Endpoint
    key_id: str
    token: TokenSettings
    blob: str

    def decrypt(self) -> tuple[int, str]:
        """Status and error of a decryption, over a connection of its own."""
        status, _, answer = call(self.root, "Decrypt", {"CiphertextBlob": self.blob})
        return status, answer.get("__type", "")

    def create(self) -> tuple[int, str]:
        """The id of a new key, or the error."""
        status, _, answer = call(self.root, "CreateKey", {})
        return status, answer.get("__type", "") or answer["KeyMetadata"]["KeyId"]

    def ready(self) -> tuple[int, str]:
        """What /readyz answers, and what it says of the token."""
        status, body = self.server.page("/readyz")
        return status, json.loads(body)["faults"].get("token", "")

    def metric(self, name: str) -> float:
        """A figure of /metrics without labels."""
        page = self.server.page("/metrics")[1].decode()
        match = re.search(rf"^{name} ([0-9.e+]+)$", page, re.MULTILINE)
        return float(match[1]) if match else -1.0

    def is_well(self) -> bool:
        """Whether both workers decrypt, and say so."""
        return all(self.decrypt() == (200, "") and self.ready() == (200, "") for _ in range(8))


@contextmanager
def vanishing(new_site: NewSite) -> Iterator[Vanishing]:
    """A server on an installation of its own."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    set_in(site, "log_requests = false")
    token = config.load(site.config).token
    folder = TokenFolder.of(token)
    with serving(site, "--workers", 2) as server:
        endpoint = server.endpoint(root)
        key_id = call(endpoint, "CreateKey", {})[2]["KeyMetadata"]["KeyId"]
        blob = call(endpoint, "Encrypt", {"KeyId": key_id, "Plaintext": "aGVsbG8="})[2]["CiphertextBlob"]
        yield Vanishing(server, folder, endpoint, key_id, token, blob)
        folder.put_back()
        assert server.stop() == 0, server.log_text


def take_away(folder: TokenFolder, how: str, token: TokenSettings) -> None:
    """Let the token or its objects vanish, or put another one in its place."""
    if how == "objects":
        folder.hide_objects()
        return
    other = folder.initialised_again()
    folder.vanish()
    if how == "another serial":
        other = folder.with_another_serial(token.label or "", Path(token.environment["SOFTHSM2_CONF"]))
    if how != "folder":
        folder.put(other)


@pytest.mark.parametrize("how", list(TOLD))
def test_under_load(new_site: NewSite, how: str) -> None:
    """Calls end well or with 503, never another way; both workers are back by themselves, and no key is lost."""
    with vanishing(new_site) as scene:
        answers, made, stopped = set[tuple[int, str]](), list[str](), threading.Event()

        def load() -> None:
            while not stopped.is_set():
                answers.add(scene.decrypt())
                status, body = scene.create()
                if status == 200:
                    made.append(body)
                elif body != "ThrottlingException":  # the quota of CreateKey, which has no part in this
                    answers.add((status, body))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(made) > 4)
        take_away(scene.folder, how, scene.token)
        until(lambda: scene.metric("hsmkms_token_away") == 2.0)
        until(lambda: scene.ready()[0] == 503)
        until(lambda: TOLD[how] in scene.ready()[1])
        until(lambda: scene.metric("hsmkms_token_wrong") == (2.0 if how == "another serial" else 0.0))
        time.sleep(1.0)
        scene.folder.show_objects() if how == "objects" else scene.folder.put_back()
        until(scene.is_well, BACK_SECONDS)
        until(lambda: scene.metric("hsmkms_token_away") == 0.0)
        stopped.set()
        for thread in threads:
            thread.join()
        assert answers <= {(200, ""), AWAY}
        assert AWAY in answers
        for key_id in made:
            assert call(scene.root, "Encrypt", {"KeyId": key_id, "Plaintext": "aGVsbG8="})[0] == 200
        assert scene.metric("hsmkms_store_altered") == 0.0
        assert "changed by something other than hsmkms" not in scene.server.log_text
        assert "Traceback" not in scene.server.log_text


@pytest.mark.parametrize("how", ["folder", "objects"])
def test_from_the_start(new_site: NewSite, how: str) -> None:
    """A server that finds the token away, or without its objects, answers 503 until it is back, and then serves."""
    site = new_site()
    (root,) = credentials(site, ("create_access_key", {"user_name": None}))
    folder = TokenFolder.of(config.load(site.config).token)
    (folder.vanish if how == "folder" else folder.hide_objects)()
    with serving(site, "--workers", 2) as server:
        endpoint = server.endpoint(root)
        until(lambda: server.page("/readyz")[0] == 503)
        parsed = json.loads(server.page("/readyz")[1])["faults"]["token"]
        assert TOLD[how] in parsed
        status, _, answer = call(endpoint, "CreateKey", {})
        assert (status, answer["__type"]) == AWAY
        assert "restore" not in server.log_text
        if how == "objects":
            folder.show_objects()
        folder.put_back()
        until(lambda: all(server.page("/readyz")[0] == 200 for _ in range(24)))
        assert call(endpoint, "CreateKey", {})[0] == 200
        assert Path(f"/proc/{server.process.pid}").exists()
        assert server.stop() == 0, server.log_text
