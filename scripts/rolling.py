"""An upgrade without downtime: a server of an older revision and one of this, side by side on one installation.

The older program makes the installation and serves it; this one migrates the databases while that goes on, and serves
beside it. Then both are asked in turns: what one makes, changes or ends counts for the other at its next call. At last
the older one is stopped, and this one looks at everything.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from hsmkms.testing import Endpoint

ROOT = Path(__file__).parent.parent
REGION = "eu-central-1"
SECRET = b"what was encrypted"


class Program:
    """One version of hsmkms, used on an installation."""

    def __init__(self, python: Path, config: Path) -> None:
        self._command = [str(python), "-m", "hsmkms"]
        self._environment = os.environ | {"HSMKMS_CONFIG": str(config)}

    def run(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        """What a command answers."""
        done = subprocess.run([*self._command, *arguments], env=self._environment, check=False, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {done.stdout.decode()}{done.stderr.decode()}")
        return json.loads(done.stdout)

    @contextmanager
    def serving(self, key: dict[str, str]) -> Iterator[Any]:
        """A client of a server of that version, which is stopped at the end of the block."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [*self._command, "serve", "--port", str(port), "--workers", "2", "--no-log-requests"]
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(command, env=self._environment, stderr=log) as process,
        ):
            try:
                wait(f"http://127.0.0.1:{port}/readyz")
                endpoint = Endpoint(f"http://127.0.0.1:{port}", REGION, key["AccessKeyId"], key["SecretAccessKey"])
                yield endpoint.client()
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()
                log.seek(0)
                _expect(b"Traceback" not in log.read(), "no server meets a fault of its own")


def wait(url: str) -> None:
    """Wait until a server answers."""
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own server
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{url} does not answer")


def use(one: Any, other: Any, number: int) -> bytes:  # noqa: ANN401 - boto3 makes its classes at run time
    """A key's life, asked of both servers in turns; a ciphertext of it that must decrypt for ever."""
    key_id = one.create_key()["KeyMetadata"]["KeyId"]
    alias = f"alias/rolling-{number}"
    other.create_alias(AliasName=alias, TargetKeyId=key_id)
    sealed: bytes = one.encrypt(KeyId=alias, Plaintext=SECRET)["CiphertextBlob"]
    before = other.decrypt(CiphertextBlob=sealed)
    _expect(before["Plaintext"] == SECRET, "what one encrypted the other decrypts")
    one.rotate_key_on_demand(KeyId=key_id)
    after = other.decrypt(CiphertextBlob=other.encrypt(KeyId=key_id, Plaintext=SECRET)["CiphertextBlob"])
    _expect(after["KeyMaterialId"] != before["KeyMaterialId"], "after a rotation by one the other uses new material")
    other.disable_key(KeyId=key_id)
    _expect(_refused(lambda: one.encrypt(KeyId=key_id, Plaintext=SECRET)) == "DisabledException", "disabled at once")
    one.enable_key(KeyId=key_id)
    _expect(other.decrypt(CiphertextBlob=sealed)["Plaintext"] == SECRET, "enabled at once")
    doomed = other.create_key()["KeyMetadata"]["KeyId"]
    one.schedule_key_deletion(KeyId=doomed, PendingWindowInDays=7)
    _expect(
        _refused(lambda: other.encrypt(KeyId=doomed, Plaintext=SECRET)) == "KMSInvalidStateException", "to be deleted"
    )
    return sealed


def _refused(call: Any) -> str:  # noqa: ANN401 - a function of a client
    try:
        call()
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return "nothing"


def _expect(held: bool, what: str) -> None:  # noqa: FBT001 - a claim and whether it holds
    if not held:
        raise SystemExit(f"did not hold: {what}")


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--old", type=Path, required=True, help="a checkout of the older revision, with its .venv")
    options.add_argument("--seconds", type=float, default=20, help="how long both serve")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "data" / "hsmkms.toml"
        old = Program(chosen.old / ".venv/bin/python", config)
        new = Program(Path(sys.executable), config)
        old.run("init", "--create-softhsm-token", "--data-dir", str(config.parent), "--region", REGION)
        key = old.run("create-access-key", "--root")["AccessKey"]
        with old.serving(key) as ours:
            first = use(ours, ours, 0)
            migrated = new.run("migrate")["Applied"]
            with new.serving(key) as theirs:
                sealed, until = [first], time.monotonic() + chosen.seconds
                while time.monotonic() < until:
                    pair = (ours, theirs) if len(sealed) % 2 else (theirs, ours)
                    sealed.append(use(*pair, len(sealed)))
        with new.serving(key) as kms:
            for each in sealed:
                _expect(kms.decrypt(CiphertextBlob=each)["Plaintext"] == SECRET, "every ciphertext decrypts")
        for command in (("audit", "verify"), ("verify-store",), ("reconcile",), ("doctor",)):
            new.run(*command)
    print(f"{len(sealed)} lives of keys, asked of both in turns; migrations meanwhile: {', '.join(migrated) or 'none'}")


if __name__ == "__main__":
    main()
