"""Write the commented configuration file: its text, the examples in its commented lines, and the settings in force."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from hsmkms.config.settings import Settings

TEMPLATE: Final = """\
# Settings of one hsmkms installation. An unknown or misspelt setting is refused.
# Found by: --config FILE, else $HSMKMS_CONFIG, ./hsmkms.toml, $XDG_CONFIG_HOME/hsmkms/hsmkms.toml (else under
# ~/.config), /etc/hsmkms/hsmkms.toml. A line after a single # shows a default, or what may be set instead.
# Relative paths count from the folder of this file; ~ is the home folder.

# The account in every ARN: 12 digits of your choice. Do not change it once there are keys.
{account_id}

# The regions served: name spaces of keys and aliases, named as AWS names its own.
{regions}

# The region of a request that names none. Default: the first of regions.
{default_region}

# Where the databases meta.db and log.db are: a folder that only this user may open. Default: the folder of this file.
{data_dir}

# The services that have a key of their own, created at the first use of its alias: alias/aws/NAME. Users can use these
# keys but not manage them. ["*"] is every name, for development only: a request with any such alias creates a key.
{services}

[store]
# A PostgreSQL database in place of the files meta.db and log.db: postgresql+psycopg://USER@HOST/DATABASE. Its query
# takes what libpq knows, such as sslrootcert, or several hosts (?host=one:5432&host=two:5432). Over the network the
# server's certificate is verified (sslmode=verify-full) unless the query says otherwise. Needs the extra
# hsmkms[postgresql]. Several nodes may use it: `hsmkms guide nodes`.
{store_url}

# When a change acts on other processes and nodes. "bounded": usually within a tenth of a second, always within one
# second. "strict": at once, since the database is asked before each request (once for those that come together). Files
# are always strict.
{consistency}

# How long keys that are cached are still used while the database does not answer; nothing is changed meanwhile. So it
# is how long a key may be used here that another node has disabled. 0: not at all. With "strict" it is never done.
{stale_seconds}

# If url leads through a pooler (PgBouncer in transaction mode): the same database past it, for the connection that
# waits for changes. Without it url must not lead through one.
{listen_url}

[store.password]
# The source of the database's password, if it wants one: one of these. It is read again for each connection.
# A file with the password on its first line, owned by this user or root and readable by nobody else. systemd may
# pass it with LoadCredential=database-password:FILE.
{password_file}

# A variable of the environment.
{password_environment}

# A program and its arguments, run without a shell, that prints it.
{password_command}

# The token. If there are several, each table is [[token]], with [token.pin] and [token.environment] below it; their
# order has no meaning: keys are created on the one that `hsmkms migrate-token` named last.
[token]
# The PKCS#11 module (shared library) of the HSM. Required, unless uri has module-path.
{module}

# Which token: label, serial or both. Labels may repeat; nothing starts if two tokens fit. A list of serials,
# ["A", "B"], is an HA group whose members share their objects (Luna HA, CloudHSM): the member that answered last is
# used, and another one if it fails. A copy of the token under a serial that is not in the list is refused.
{label}
{serial}

# Or an RFC 7512 URI instead, of token, serial, manufacturer, model and slot-id. It may have module-path and pin-source
# (a file), which must then not be set elsewhere.
{uri}

# Sessions that one process opens at most; the token's own limit counts too.
{max_sessions}

# How long a request waits for a free session before it is answered with ThrottlingException.
{session_wait_seconds}

# How long the creation of a key on an HA group waits until every member that could take over has the key; then it is
# refused with DependencyTimeoutException. 0: it does not wait, and a failover can come too early for a new key.
{replication_seconds}

# The string for pReserved of C_Initialize, for modules that take their parameters there (NSS). Default: none.
{init_reserved}

[token.pin]
# The source of the token's user PIN: exactly one of these four. The PIN itself is never in this file.

# A file with the PIN on one line, owned by this user or root and readable by nobody else (mode 600 or 400). systemd may
# pass it with LoadCredential=pin-LABEL:FILE, with the token's label (or serial), or under the file's own name.
{file}

# A variable of the environment.
{environment}

# A program and its arguments, run without a shell: the first line that it prints within 30 seconds.
{command}

# Ask at the terminal.
{prompt}

[token.environment]
# Variables that the vendor's library reads, set before it is loaded: nothing else must be exported.
{variables}

[rotation]
# After how many days a key gets a new backing key, if automatic rotation is enabled for it: 90 to 2560.
{period_days}

# Let users choose the period of each key (RotationPeriodInDays, 90 to 2560 days), as today's AWS does.
{custom_period}

# The period of the keys of services, which always rotate. Today's AWS: 365.
{managed_period_days}

# Let RotateKeyOnDemand rotate keys with imported material to newly imported material, as today's AWS does.
# Otherwise no other material ever replaces the one that was imported first.
{imported_on_demand}

[import]
# How many days ahead the ValidTo of imported material may lie. Default: any number. Today's AWS: 365.
{valid_to_within_days}

# For development only: if the token cannot unwrap RSAES_OAEP_SHA_256 or RSA_AES_KEY_WRAP_SHA_256 itself, let this
# program remove the padding. Key material then passes through its memory in the clear, and such keys stay marked.
{host_unwrap}

# A module that crashes where it cannot unwrap material (token-check tries it): import all the same. Whoever may import
# can then end a worker, which is replaced.
{accept_crashes}

[permissions]
# A user or role of the account that does not exist, in a key policy or a grant: refuse, as AWS does, or accept. An
# accepted one can never call; a user created later under that name is a new one, to whom only a Deny applies.
{unknown_principals}

[serve]
# Where `hsmkms serve` listens.
{host}
{port}

# Processes, each with a login of its own, and threads per process, for slow operations.
{workers}
{threads}

# TLS: a certificate chain and its private key, both PEM. SIGHUP reads them again.
{certificate}
{private_key}

# Without TLS only a loopback address is served, unless this states that something else protects the connection.
{plain_http}

# How far a client's clock may be off: 1 to 15 minutes.
{clock_skew_minutes}

# The log: json, or text for people; and whether each request gets a line.
{log_format}
{log_requests}

# Keys that have metrics of their own: 0 to 1000, those that were used last. Each costs Prometheus up to five series.
{metrics_keys}

# A worker that a call to the token blocks for this long is killed and replaced: 1 to 3600 seconds, three times as long
# if all threads wait or while it starts. 0: never.
{hang_seconds}

# Connections that one worker serves at most; others are answered with 503. 0: 10,000, over TLS 1,500, and never more
# than the limit of open files (LimitNOFILE, ulimit -n) less 512.
{max_connections}

# The memory of one worker that unfinished or waiting requests, and responses that clients do not read, may take, in
# MiB: 4 to 65536. Beyond it the oldest unfinished request is answered with 503.
{request_memory_mib}

[serve.quotas]
# Requests a second that each user may make, by operation or class of operations; 0 for no limit. Limited by default are
# operations that create or import keys: CreateKey and RotateKeyOnDemand 5, GetParametersForImport 1, ImportKeyMaterial
# 15, DataKeyPairs 10. Classes: SymmetricCryptography (Encrypt, Decrypt, ReEncrypt, data keys, random bytes and MACs),
# AsymmetricCryptography (Sign, Verify, DeriveSharedSecret), DataKeyPairs (GenerateDataKeyPair in both forms).
{quotas}

[audit]
# When the record of a request is on the disk: commit (before the response), interval (a short time later, so that a
# crash may lose it), or off (never: no audit log is written).
{durability}

# That short time.
{interval_milliseconds}

# What happens while the log cannot be written: refuse (requests that do more than read metadata), or go-on.
{when_unwritable}

# The size at which a new file is started; older ones can be moved to an archive.
{segment_mib}

# The newest seal is kept on the token, where it cannot be rolled back with the files. For a token without data objects:
# a file elsewhere, on another machine's disk, say. Default: none.
{seal_file}

[backup]
# The keys that `hsmkms backup` encrypts to, unless its options name others: age1…, ssh-ed25519 … or ssh-rsa …, or files
# with such lines or a public key in PEM. Default: the token, without which it then cannot be opened.
{recipients}

# The operator's signing key, with which every backup is signed: a PEM file, owned by this user or root and readable by
# nobody else, or a program that prints it. Default: only the token proves who made a backup.
{signing_key}
{signing_command}

[reconcile]
# How long an object on the token that belongs to no key is kept before `hsmkms reconcile` may offer to remove it.
{grace_hours}
"""

EXAMPLES: Final[dict[str, Any]] = {
    "default_region": "eu-central-1",
    "data_dir": ".",
    "module": "/usr/lib/softhsm/libsofthsm2.so",
    "label": "hsmkms",
    "serial": "1c2e0a58b4a1e9d3",
    "uri": "pkcs11:token=hsmkms;serial=1c2e0a58b4a1e9d3?pin-source=file:/etc/hsmkms/pin",
    "services": ["s3"],
    "CreateKey": 5.0,
    "certificate": "/etc/hsmkms/tls/chain.pem",
    "private_key": "/etc/hsmkms/tls/key.pem",
    "valid_to_within_days": 365,
    "init_reserved": "configdir='/etc/pki/nssdb'",
    "file": "pin",
    "environment": "HSMKMS_PIN",
    "command": ["systemd-creds", "cat", "hsm-pin"],
    "prompt": True,
    "seal_file": "/mnt/elsewhere/hsmkms.seal",
    "recipients": ["/etc/hsmkms/backup-recipients.txt"],
    "signing_key": "/etc/hsmkms/backup-signing.pem",
    "signing_command": ["systemd-creds", "cat", "backup-signing"],
    "SOFTHSM2_CONF": "/etc/hsmkms/softhsm2.conf",
}
"""Values in the commented lines of settings without a default."""

PASSWORD_EXAMPLES: Final[dict[str, Any]] = {
    "file": "/etc/hsmkms/database-password",
    "environment": "HSMKMS_DATABASE_PASSWORD",
    "command": ["systemd-creds", "cat", "database-password"],
}
STORE_EXAMPLES: Final[dict[str, Any]] = {
    "url": "postgresql+psycopg://hsmkms@db.example.net/hsmkms",
    "listen_url": "postgresql+psycopg://hsmkms@db.example.net:5432/hsmkms",
}
STORE_SETTINGS: Final = ("url", "consistency", "stale_seconds", "listen_url")


def init_text(settings: Settings) -> str:
    """Write the commented file that ``load`` reads as these settings; a setting at its default is commented out.

    Paths are written unchanged: relative ones are relative to the folder in which the file will be.
    """
    lines = {
        **_lines(settings, "account_id", "regions", "default_region", "data_dir", "services"),
        **_lines(settings.token, "module", "label", "serial", "uri", "init_reserved"),
        **_lines(settings.token, "max_sessions", "session_wait_seconds", "replication_seconds"),
        **_lines(settings.token.pin, "file", "environment", "command", "prompt"),
        **_lines(settings.rotation, "period_days", "custom_period", "managed_period_days", "imported_on_demand"),
        **_lines(settings.imports, "valid_to_within_days", "host_unwrap", "accept_crashes"),
        **_lines(settings.permissions, "unknown_principals"),
        **_lines(settings.serve, "host", "port", "workers", "threads", "certificate", "private_key", "plain_http"),
        **_lines(settings.serve, "clock_skew_minutes", "log_format", "log_requests", "metrics_keys", "hang_seconds"),
        **_lines(settings.serve, "max_connections", "request_memory_mib"),
        **_lines(settings.audit, "durability", "interval_milliseconds", "when_unwritable", "segment_mib", "seal_file"),
        **_lines(settings.reconcile, "grace_hours"),
        **_lines(settings.backup, "recipients", "signing_key", "signing_command"),
        **_store_lines(settings),
    }
    assignments = [f"{_toml_key(name)} = {_toml(value)}" for name, value in settings.token.environment.items()]
    variables = assignments or [f"# SOFTHSM2_CONF = {_toml(EXAMPLES['SOFTHSM2_CONF'])}"]
    rates = [f"{_toml_key(name)} = {_toml(rate)}" for name, rate in settings.serve.quotas.items()]
    quotas = rates or [f"# CreateKey = {_toml(EXAMPLES['CreateKey'])}"]
    return TEMPLATE.format(**lines, variables="\n".join(variables), quotas="\n".join(quotas))


def _store_lines(settings: Settings) -> dict[str, str]:
    """Format the lines of the store; its password and a token's PIN have sources of the same names."""
    sources = _lines(settings.store.password, *PASSWORD_EXAMPLES, examples=PASSWORD_EXAMPLES)
    lines = _lines(settings.store, *STORE_SETTINGS, examples=STORE_EXAMPLES)
    return {"store_url": lines.pop("url")} | lines | {f"password_{name}": line for name, line in sources.items()}


def _lines(section: Struct, *names: str, examples: Mapping[str, Any] = EXAMPLES) -> dict[str, str]:
    """Format one line for each setting: an assignment, or a comment if it has its default."""
    defaults = {each.name: each.default for each in msgspec.structs.fields(section)}
    values = {name: getattr(section, name) for name in names}
    return {
        name: f"# {name} = {_toml(examples.get(name, value))}"
        if value == defaults[name]
        else f"{name} = {_toml(value)}"
        for name, value in values.items()
    }


def _toml(value: Any) -> str:  # noqa: ANN401 - any setting
    # JSON is TOML for strings (but for DEL, which TOML wants escaped), numbers, booleans and lists of strings.
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
