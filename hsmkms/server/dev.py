"""Run ``serve --dev``: a whole installation for tests, which is removed when the server ends.

Fresh token, today's AWS rules, every region, no quotas, and credentials of the account's root. Never for real data: the
PIN lies in a file beside the token, and imported key material passes through this program.
"""

import multiprocessing
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hsmkms.config import settings as config
from hsmkms.config import template as config_template
from hsmkms.config.settings import (
    ImportSettings,
    PermissionSettings,
    PinSettings,
    RotationSettings,
    ServeSettings,
    Settings,
    TokenSettings,
)
from hsmkms.errors import ConfigurationError, HsmKmsError
from hsmkms.file_lock import lock, try_lock
from hsmkms.server import server
from hsmkms.server.aws.quota import DEFAULT_RATES
from hsmkms.wiring import core as wiring
from hsmkms.wiring import new_tokens

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
REGIONS: Final = (
    *("us-east-1", "us-east-2", "us-west-1", "us-west-2", "us-gov-east-1", "us-gov-west-1", "mx-central-1"),
    *("ca-central-1", "ca-west-1", "sa-east-1", "af-south-1", "il-central-1", "me-central-1", "me-south-1"),
    *("eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-2", "eu-west-3"),
    *("ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-south-2"),
    *("ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5", "ap-southeast-7"),
    *("cn-north-1", "cn-northwest-1"),
)
SHADOWING: Final = (
    ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_CREDENTIAL_EXPIRATION"),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
)
"""Variables that make SDKs ignore, or refuse, the credentials or the endpoint, in lines for a shell.

AWS_ENDPOINT_URL is not one: AWS_ENDPOINT_URL_KMS comes before it.
"""

_PREFIX: Final = "hsmkms-dev-"
_TAKEN_WITHIN_SECONDS: Final = 60.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the place of a fresh folder with a random name
_ENOUGH: Final = 1024**3
"""Bytes: the audit log takes 1 KiB for each request. Containers often have less there."""

_LABEL: Final = "hsmkms-dev"
_PIN_BYTES: Final = 16
_UNLIMITED: Final = dict.fromkeys(DEFAULT_RATES, 0.0)


def serve(wanted: ServeSettings, account: str | None, *, until_stdin_ends: bool) -> None:
    """Make an installation, print its credentials as lines for a shell once it answers, and serve it.

    ``until_stdin_ends``: stop when the process at the other end of standard input ends, also if it is killed.
    """
    wanted = replace(wanted, quotas=_UNLIMITED, log_format="text")
    with _folder() as folder:
        settings, access_key_id, secret = _prepare(folder, account or DEFAULT_ACCOUNT, wanted)
        tell = partial(_tell, access_key_id, secret, wanted)
        lifeline = sys.stdin.fileno() if until_stdin_ends else None
        server.serve(settings, proven=True, ready=tell, lifeline=lifeline, scratch=folder)


@contextmanager
def _folder() -> Iterator[Path]:
    """Create a folder for the block; if this process is killed, the next development server removes it."""
    place = _place()
    _remove_abandoned(place)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as name:
        folder = Path(name)
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        lock(held)
        try:
            yield folder
        finally:
            os.close(held)


def _place() -> Path:
    """Return the parent folder: in memory, where nothing waits for a disk, unless TMPDIR names another one."""
    usual = Path(tempfile.gettempdir())
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return usual
    return _MEMORY if shutil.disk_usage(_MEMORY).free >= _ENOUGH else usual


def _remove_abandoned(place: Path) -> None:
    """Remove the folders of servers that have ended: those without a lock, unless they were created just now."""
    for each in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            held = os.open(each, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                status = os.fstat(held)
                old = status.st_uid == os.geteuid() and time.time() - status.st_mtime > _TAKEN_WITHIN_SECONDS
                if old and try_lock(held):
                    shutil.rmtree(each)
            finally:
                os.close(held)


def _prepare(folder: Path, account: str, wanted: ServeSettings) -> tuple[Settings, str, str]:
    """Make token and databases in a process of its own: this one must not load the PKCS#11 module."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_make, args=(folder, account, wanted, there))
    child.start()
    there.close()
    try:
        settings, access_key_id, secret = here.recv()
    except EOFError as exc:
        raise ConfigurationError("the development installation could not be made: see the message above") from exc
    finally:
        child.join()
    return settings, access_key_id, secret


def _make(folder: Path, account: str, wanted: ServeSettings, answer: Connection) -> None:
    from hsmkms.kms import Kms  # noqa: PLC0415 - in the child only

    try:
        settings = _settings(folder, account, wanted)
        wiring.initialise(settings)
        with Kms(wiring.core_of(settings)) as kms:
            made = kms.operator.credentials.create_access_key(None)
        answer.send((settings, made.access_key_id, made.secret_access_key))
    except HsmKmsError as exc:
        sys.stderr.write(f"hsmkms: {type(exc).__name__}: {exc}\n")
    answer.close()


def _settings(folder: Path, account: str, wanted: ServeSettings) -> Settings:
    pin = folder / "pin"
    user_pin, so_pin = (secrets.token_urlsafe(_PIN_BYTES) for _ in range(2))
    pin.touch(mode=0o600)
    pin.write_text(f"{user_pin}\n")
    module, made = new_tokens.make_softhsm_token(
        None, folder / "softhsm", label=_LABEL, user_pin=user_pin, so_pin=so_pin
    )
    token = TokenSettings(
        module=module,
        label=_LABEL,
        serial=made.serial,
        pin=PinSettings(file=Path("pin")),
        environment=made.environment,
    )
    file = folder / config.FILE_NAME
    draft = Settings(
        account_id=account,
        regions=REGIONS,
        default_region=DEFAULT_REGION,
        services=(config.EVERY_SERVICE,),
        token=token,
        rotation=RotationSettings(custom_period=True, managed_period_days=365, imported_on_demand=True),
        imports=ImportSettings(valid_to_within_days=365, host_unwrap=True),
        permissions=PermissionSettings(unknown_principals="accept"),
        serve=wanted,
    )
    config.check(draft)
    file.touch(mode=0o600)
    file.write_text(config_template.init_text(draft))
    return config.load(file)


def _tell(access_key_id: str, secret: str, serve: ServeSettings, port: int, serves: str) -> None:
    """Print what clients need, when they are answered; what would come before it in a shell is unset."""
    del serves  # an installation and a token that nobody knows
    lines = {
        "AWS_ACCESS_KEY_ID": access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": DEFAULT_REGION,
        "AWS_DEFAULT_REGION": DEFAULT_REGION,
        "AWS_ENDPOINT_URL_KMS": server.url_of(serve, port),
    }
    unsets = "".join(f"unset {' '.join(names)}\n" for names in SHADOWING)
    exports = "".join(f"export {name}={value}\n" for name, value in lines.items())
    sys.stdout.write(unsets + exports)
    sys.stdout.flush()
