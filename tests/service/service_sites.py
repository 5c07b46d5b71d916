"""Installations for the tests of the service: a SoftHSM token, databases and a configuration in a folder of their own.

A PKCS#11 module has one state and one configuration per process, so at most one of them is open in a process at a
time: close the ``Kms`` of one before another is made or opened.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import forked
import msgspec
import warm
from msgspec import Struct
from postgresql_cluster import Cluster, name_of
from postgresql_pooler import PooledCluster

from hsmkms.config import settings as config
from hsmkms.config import template as config_template
from hsmkms.config.settings import PinSettings, Settings, StoreSettings, TokenSettings
from hsmkms.hsm import device as devices
from hsmkms.hsm.session import module as modules
from hsmkms.kms import Kms
from hsmkms.model.aliases import CreateAliasRequest
from hsmkms.model.caller import Caller
from hsmkms.model.crypto import DecryptRequest, EncryptRequest
from hsmkms.model.keys import CreateKeyRequest, KeyMetadata
from hsmkms.service.runtime.ports import Clock
from hsmkms.service.runtime.row_seals import RowSeals
from hsmkms.store.engine import Store
from hsmkms.wiring import core as wiring
from hsmkms.wiring import joining, new_tokens

ACCOUNT = "111122223333"
REGION = "eu-central-1"
OTHER_REGION = "us-east-1"
PIN = "correct horse"
SO_PIN = "battery staple"
LABEL = "hsmkms service test"
RUN_SECONDS = 120.0
"""After which a program is given up."""
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"


class StoppedClock:
    """A clock that moves only on demand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Return the present instant."""
        return self.now

    def advance(self, **amount: float) -> None:
        """Move on by a time delta: ``advance(hours=24)``."""
        self.now += timedelta(**amount)


class Site(Struct, frozen=True, kw_only=True):
    """One installation that is set up, and its settings."""

    folder: Path
    settings: Settings
    cluster: Cluster | PooledCluster | None = None
    """The server of its database, if that is not in files."""

    @classmethod
    def new_token(cls, folder: Path, **changes: object) -> Self:
        """Make token and configuration in ``folder``, and no databases yet. ``changes`` are members of Settings."""
        folder.mkdir(mode=0o700, parents=True)
        pin = folder / "pin"
        pin.touch(mode=0o600)
        pin.write_text(f"{PIN}\n")
        module, made = new_tokens.make_softhsm_token(None, folder / "softhsm", label=LABEL, user_pin=PIN, so_pin=SO_PIN)
        return cls._configured(folder, module, made.serial, made.environment, changes)

    @classmethod
    def make(cls, folder: Path, cluster: Cluster | PooledCluster | None = None, **changes: object) -> Self:
        """Make a whole installation in ``folder``, with its database on a server if one is given."""
        if cluster is not None:
            changes["store"] = _store_settings(cluster, cluster.create())
        site = msgspec.structs.replace(cls.new_token(folder, **changes), cluster=cluster)
        # No later than any clock of the tests; a process tries refused material once for all that it makes.
        wiring.initialise(site.settings, lambda: START, try_refused_material=True)
        return site

    def copy(self, folder: Path, **changes: object) -> Self:
        """Copy a whole installation that is not open, with its token; ``changes`` are members of Settings.

        The copy is the same installation with the same keys, in another place: for two that differ, make one of them.
        """
        token = self.settings.token
        assert token.module is not None
        assert isinstance(token.serial, str)
        shutil.copytree(self.folder, folder)
        softhsm = folder / "softhsm" / "softhsm2.conf"
        softhsm.write_text(softhsm.read_text().replace(str(self.folder), str(folder)))
        if self.cluster is not None:
            template = name_of(str(self.settings.store.url))
            changes["store"] = _store_settings(self.cluster, self.cluster.create(template))
        copied = self._configured(folder, token.module, token.serial, {"SOFTHSM2_CONF": str(softhsm)}, changes)
        return msgspec.structs.replace(copied, cluster=self.cluster)

    def edit(self, statement: str) -> None:
        """Change the control plane by hand, with the means of its engine, past the triggers of hsmkms."""
        if self.cluster is not None:
            with self.cluster.connect(name_of(str(self.settings.store.url))) as admin:
                admin.execute("SET session_replication_role = replica")
                admin.execute(statement.encode())
            return
        with closing(sqlite3.connect(self.settings.data_dir / "meta.db")) as connection, connection:
            for name in ("hsmkms_seals", "hsmkms_seal_sets"):
                connection.create_function(name, 0, lambda: None)
            connection.execute(statement)

    def literal(self, value: bytes) -> str:
        """Bytes as statements of the engine have them."""
        return f"x'{value.hex()}'" if self.cluster is None else f"'\\x{value.hex()}'::bytea"

    def keep_control_plane(self) -> Callable[[], None]:
        """Keep the control plane as it is, while nobody has it open; return what puts that back."""
        if self.cluster is not None:
            name, admin = name_of(str(self.settings.store.url)), self.cluster.connect()
            kept = self.cluster.create(name)

            def put_database_back() -> None:
                admin.execute(f"DROP DATABASE {name} (FORCE)".encode())
                admin.execute(f"ALTER DATABASE {kept} RENAME TO {name}".encode())
                admin.close()

            return put_database_back
        meta, copy = self.settings.data_dir / "meta.db", self.folder / "copy.db"
        shutil.copy2(meta, copy)

        def put_file_back() -> None:
            for each in (meta, meta.with_name("meta.db-wal"), meta.with_name("meta.db-shm")):
                each.unlink(missing_ok=True)
            shutil.copy2(copy, meta)

        return put_file_back

    def drop(self) -> None:
        """Drop the database, if it is on a server."""
        if self.cluster is not None:
            self.cluster.drop(str(self.settings.store.url))

    @classmethod
    def _configured(
        cls, folder: Path, module: Path, serial: str, environment: dict[str, str], changes: dict[str, object]
    ) -> Self:
        """Write the configuration for the token in ``folder``."""
        token = TokenSettings(
            module=module, label=LABEL, serial=serial, pin=PinSettings(file=Path("pin")), environment=environment
        )
        wanted = {"account_id": ACCOUNT, "regions": (REGION, OTHER_REGION), "token": token} | changes
        return cls.written(folder, Settings(**wanted), "hsmkms.toml")

    @classmethod
    def written(cls, folder: Path, wanted: Settings, name: str) -> Self:
        """The installation that a configuration file in ``folder``, written now, describes."""
        (folder / name).write_text(config_template.init_text(wanted))
        return cls(folder=folder, settings=config.load(folder / name))

    def varied(self, name: str, **changes: object) -> Self:
        """The same databases with other settings, in a second configuration file."""
        varied = self.written(self.folder, msgspec.structs.replace(self.settings, **changes), name)
        return msgspec.structs.replace(varied, cluster=self.cluster)

    def join(self, folder: Path) -> Self:
        """Add a node, whose data folder is on this machine; the token stays in the folder of the first one."""
        folder.mkdir(mode=0o700)
        shutil.copy(self.folder / "pin", folder)
        made = self.written(folder, msgspec.structs.replace(self.settings, data_dir=folder), "hsmkms.toml")
        joining.join(made.settings)
        return made

    def open(self, clock: Clock = wiring.utc_now) -> Kms:
        """Open it in this process; the caller closes it."""
        return Kms(wiring.core_of(self.settings, clock))


def _store_settings(cluster: Cluster | PooledCluster, database: str) -> StoreSettings:
    """Strict, so that changes act at the next call as in files."""
    return StoreSettings(url=cluster.url(database), consistency="strict", listen_url=cluster.listen_url(database))


def close_to_all(cluster: Cluster, database: str) -> None:
    """Close all connections to a database, and allow no new ones."""
    cluster.admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false".encode())
    cluster.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])


def close_everything() -> None:
    """Close every device and module that this process has open."""
    for device, users in list(devices._open_devices._users.values()):
        for _ in range(users):
            device.close()
    for module in list(modules._registry._open.values()):
        for _ in range(module.users):
            module.release()


# -- programs in processes of their own -----------------------------------------------------------------------------


def start(program: str, config_file: Path, *arguments: str) -> forked.Program:
    """Start one of the programs in a process of its own."""
    return forked.start_program(PROGRAMS / f"{program}.py", [str(config_file), *arguments], _environment())


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}


def finish(process: forked.Program, *, seconds: float = 120, status: int = 0) -> list[Any]:
    """Wait for a program; the JSON lines that it printed. It must end with ``status`` and not complain."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"the program did not end in {seconds} s: {output[-2000:]}{errors}") from None
    return _reports(process.returncode, status, output, errors)


def _reports(ended: int, status: int, output: str, errors: str) -> list[Any]:
    assert ended == status, f"ended with {ended}: {output[-2000:]}{errors}"
    assert not errors, errors
    return [json.loads(line) for line in output.splitlines() if line != "ready"]


def run(program: str, config_file: Path, *arguments: str, status: int = 0) -> list[Any]:
    """Run a program; the JSON lines that it printed."""
    done = warm.run_program(PROGRAMS / f"{program}.py", [str(config_file), *arguments], _environment(), RUN_SECONDS)
    return _reports(done.returncode, status, done.stdout.decode(), done.stderr.decode())


def report(value: object) -> None:
    """A program's word to the test: one JSON line, out at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


# -- the usual requests ---------------------------------------------------------------------------------------------


def new_key(kms: Kms, caller: Caller | None = None, **members: object) -> KeyMetadata:
    """Create a key; its metadata."""
    return kms.create_key(CreateKeyRequest(**members), caller).key_metadata


def new_alias(kms: Kms, name: str, key_id: str, caller: Caller | None = None) -> None:
    """Create an alias."""
    kms.create_alias(CreateAliasRequest(alias_name=name, target_key_id=key_id), caller)


def seal(kms: Kms, key_id: str, plaintext: bytes = b"secret", caller: Caller | None = None, **members: object) -> bytes:
    """Encrypt; the ciphertext."""
    return kms.encrypt(EncryptRequest(key_id=key_id, plaintext=plaintext, **members), caller).ciphertext_blob


def unseal(kms: Kms, ciphertext: bytes, caller: Caller | None = None, **members: object) -> bytes | None:
    """Decrypt; the plaintext."""
    return kms.decrypt(DecryptRequest(ciphertext_blob=ciphertext, **members), caller).plaintext


NewFolder = Callable[[], Path]
"""Names a folder that is not there yet."""

NewSite = Callable[..., Site]
"""Copies the prepared installation to a folder of the test's own."""


def store_beside(kms: Kms) -> Store:
    """The databases of an open installation on connections of their own; what is written there is sealed as well."""
    store = Store.open(kms._core.store.folder, target=kms._core.store.target)
    store.meta.companions.append(RowSeals(store, lambda conn, _: [kms._core.seals.key(conn)]))
    return store


def mac_key(kms: Kms) -> bytes:
    """CKA_ID of the installation's MAC key at home, by which this process knows its token again."""
    return kms._core.witnesses[kms._core.tokens.home_id]
