"""Settings and PIN sources: what is read, what is refused, and that no PIN is ever shown."""

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hsmkms.config import pins
from hsmkms.config import settings as config
from hsmkms.config.settings import (
    ImportSettings,
    PermissionSettings,
    PinSettings,
    ReconcileSettings,
    RotationSettings,
    Secret,
    ServeSettings,
    Settings,
    TokenSettings,
    TokenUri,
    find,
    load,
    parse_uri,
    read_pin,
)
from hsmkms.config.store_settings import PasswordSettings, password_reader
from hsmkms.config.template import init_text
from hsmkms.errors import ConfigurationError, PinError

CONF = Path(__file__).parent.parent / "conf"
PIN = "sesame-4711"

MINIMAL = """
account_id = "111122223333"
regions = ["eu-central-1", "us-east-1"]
[token]
module = "lib/module.so"
label = "here"
[token.pin]
file = "pin"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration: the minimal one, with some text in the place of other."""

    def write(*swaps: tuple[str, str]) -> Path:
        text = MINIMAL
        for old, new in swaps:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "hsmkms.toml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    """A PIN file as it should be."""
    file = tmp_path / "pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    return file


# -- load -------------------------------------------------------------------------------------------------------


def test_minimal(write: Callable[..., Path], tmp_path: Path) -> None:
    """Paths count from the file's folder, and the first region is the default one."""
    assert load(write()) == Settings(
        account_id="111122223333",
        regions=("eu-central-1", "us-east-1"),
        default_region="eu-central-1",
        data_dir=tmp_path,
        token=TokenSettings(
            module=tmp_path / "lib/module.so", label="here", pin=PinSettings(file=tmp_path / "pin"), environment={}
        ),
        reconcile=ReconcileSettings(grace_hours=24.0),
    )


def test_all(write: Callable[..., Path], tmp_path: Path) -> None:
    """Every setting can be set; absolute paths stay."""
    settings = load(
        write(
            ("regions = ", 'default_region = "us-east-1"\ndata_dir = "/var/lib/hsmkms"\nregions = '),
            ('label = "here"', 'label = "here"\nserial = "12ab"\ninit_reserved = "configdir=/x"\nmax_sessions = 1'),
            ("[token.pin]", "session_wait_seconds = 0\n[token.environment]\nSOFTHSM2_CONF = 'a=b'\n[token.pin]"),
            ("[token.environment]", "replication_seconds = 1\n[token.environment]"),
            ('file = "pin"', 'command = ["./pin.sh", "-"]\n[reconcile]\ngrace_hours = 1'),
        )
    )
    assert settings.default_region == "us-east-1"
    assert settings.data_dir == Path("/var/lib/hsmkms")
    assert settings.reconcile.grace_hours == 1
    assert settings.token == TokenSettings(
        module=tmp_path / "lib/module.so",
        label="here",
        serial="12ab",
        init_reserved="configdir=/x",
        max_sessions=1,
        session_wait_seconds=0,
        replication_seconds=1,
        environment={"SOFTHSM2_CONF": "a=b"},
        pin=PinSettings(command=(f"{tmp_path}/pin.sh", "-")),
    )


def test_home(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with ~."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(write(("lib/module.so", "~/module.so"))).token.module == Path("/home/somebody/module.so")


def test_uri(write: Callable[..., Path]) -> None:
    """A URI says all at once: token, module and PIN file."""
    uri = 'uri = "pkcs11:token=a%20b;slot-id=7?module-path=/m.so&pin-source=file:/etc/pin"'
    text = write(('label = "here"', uri), ('module = "lib/module.so"\n', ""), ('[token.pin]\nfile = "pin"', ""))
    token = load(text).token
    assert token.module == Path("/m.so")
    assert token.pin == PinSettings(file=Path("/etc/pin"))
    assert token.uri is not None
    assert parse_uri(token.uri).label == "a b"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("account_id", "acount_id", "acount_id"),
        ("label =", "labell =", "labell"),
        ("file =", "fil =", "fil"),
        ('file = "pin"', 'file = "pin"\n[reconcile]\ngrace = 1', "grace"),
        ('"111122223333"', "111122223333", "account_id"),
        ('"111122223333"', '"11112222333"', "'11112222333' must have 12 digits"),
        ('"111122223333"', '"١١١١٢٢٢٢٣٣٣٣"', "must have 12 digits"),
        ('["eu-central-1", "us-east-1"]', "[]", "at least one"),
        ("us-east-1", "us_east_1", "'us_east_1' does not look like"),
        ("us-east-1", "eu-central-1", "each region once"),
        ("regions =", 'default_region = "us-west-2"\nregions =', "'us-west-2' must be one of regions"),
        ("regions =", 'data_dir = ""\nregions =', "expected a path"),
        ("lib/module.so", "lib\\u0000", "expected a path"),
        ("[token]", "[tokn]", "tokn"),
        ('module = "lib/module.so"', "", "module must be named once"),
        ('label = "here"', "", "must say which token"),
        ('label = "here"', 'label = ""', "token.label must not be empty"),
        ('label = "here"', 'serial = ""', "must say which token"),
        ('label = "here"', "serial = []", "token.serial must name at least one member"),
        ('label = "here"', 'serial = ["A", ""]', "must not name an empty one among several"),
        ('label = "here"', 'serial = ["A", "A"]', "token.serial must name each member once"),
        ('label = "here"', 'serial = ["A", "A "]', "token.serial must name each member once"),
        ('label = "here"', 'label = "here"\nuri = "pkcs11:token=a"', "without token.label and token.serial"),
        ('label = "here"', 'uri = "pkcs11:token=a?module-path=/m.so"', "module must be named once"),
        ('label = "here"', 'uri = "pkcs11:token=a?pin-source=/pin"', "exactly one source"),
        ('label = "here"', 'label = "here"\nmax_sessions = 0', "max_sessions = 0"),
        ('label = "here"', 'label = "here"\nsession_wait_seconds = -1', "session_wait_seconds = -1"),
        ('label = "here"', 'label = "here"\nsession_wait_seconds = nan', "session_wait_seconds = nan"),
        ('label = "here"', 'label = "here"\nenvironment = {"A=B" = "c"}', "token.environment"),
        ('file = "pin"', 'file = "pin"\n[serve]\nmax_connections = -1', "max_connections = -1"),
        ('file = "pin"', 'file = "pin"\n[serve]\nrequest_memory_mib = 1', "request_memory_mib = 1"),
        ('file = "pin"', 'file = "pin"\n[serve]\nrequest_memory_mib = nan', "request_memory_mib = nan"),
        ('file = "pin"', "", "exactly one source"),
        ('file = "pin"', "prompt = false", "exactly one source"),
        ('file = "pin"', 'file = "pin"\nenvironment = "X"', "exactly one source"),
        ('file = "pin"', "command = []", "must name a program"),
        ('file = "pin"', 'file = "pin"\n[reconcile]\ngrace_hours = inf', "grace_hours = inf"),
        ('file = "pin"', 'file = "pin"\n[permissions]\nunknown_principals = "allow"', "must be refuse or accept"),
        ('file = "pin"', 'file = "pin', "line 8"),
    ],
)
def test_refused(write: Callable[..., Path], old: str, new: str, part: str) -> None:
    """A wrong setting is refused by a message that names it and the file."""
    file = write((old, new))
    with pytest.raises(ConfigurationError, match=re.escape(part)) as caught:
        load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("table", "setting", "sentence"),
    [
        ("rotation", "period_days = 89", "rotation.period_days = 89 must be from 90 to 2560"),
        ("rotation", "managed_period_days = 2561", "rotation.managed_period_days = 2561 must be from 90 to 2560"),
        ("import", "valid_to_within_days = 0", "import.valid_to_within_days = 0 must be from 1 to 36500"),
        (
            "import",
            "valid_to_within_days = 3000000",
            "import.valid_to_within_days = 3000000 must be from 1 to 36500",
        ),
        ("permissions", 'unknown_principals = "x"', "permissions.unknown_principals = 'x' must be refuse or accept"),
        ("serve", "port = 65536", "serve.port = 65536 must be from 0 to 65535"),
        ("serve", "workers = 0", "serve.workers = 0 must be from 1 to 256"),
        ("serve", "threads = 257", "serve.threads = 257 must be from 1 to 256"),
        ("serve", "clock_skew_minutes = 16", "serve.clock_skew_minutes = 16 must be from 1 to 15"),
        ("serve", 'log_format = "x"', "serve.log_format = 'x' must be json or text"),
        ("serve", "hang_seconds = 0.5", "serve.hang_seconds = 0.5 must be 0 or from 1 to 3600"),
        ("serve", "hang_seconds = nan", "serve.hang_seconds = nan must be 0 or from 1 to 3600"),
        ("serve", "max_connections = 1000001", "serve.max_connections = 1000001 must be from 0 to 1000000"),
        ("serve", "request_memory_mib = 3", "serve.request_memory_mib = 3.0 must be from 4.0 to 65536.0"),
        ("serve.quotas", "Encrypt = -1", "serve.quotas.Encrypt = -1.0 must be from 0 to 1000000"),
        ("serve.quotas", "Encrypt = nan", "serve.quotas.Encrypt = nan must be from 0 to 1000000"),
        ("serve.quotas", "Encrypt = inf", "serve.quotas.Encrypt = inf must be from 0 to 1000000"),
        ("serve", f"port = {'9' * 5000}", "a number in it is too long"),
        ("serve", f"port = 0x{'f' * 5000}", "a number in it is too long"),
        ("audit", 'durability = "x"', "audit.durability = 'x' must be commit, interval or off"),
        ("audit", "interval_milliseconds = 0", "audit.interval_milliseconds = 0 must be from 1 to 60000"),
        ("audit", 'when_unwritable = "x"', "audit.when_unwritable = 'x' must be refuse or go-on"),
        ("audit", "segment_mib = 0", "audit.segment_mib = 0.0 must be more than 0, and 4096 at most"),
        ("reconcile", "grace_hours = 87601", "reconcile.grace_hours = 87601.0 must be from 0 to 87600"),
    ],
)
def test_limits(write: Callable[..., Path], table: str, setting: str, sentence: str) -> None:
    """A value outside its limits is named with them."""
    with pytest.raises(ConfigurationError, match=re.escape(sentence) + "$"):
        load(write(('file = "pin"', f'file = "pin"\n[{table}]\n{setting}')))


def test_limits_of_settings_made_in_the_program(write: Callable[..., Path]) -> None:
    """Settings that no file was read for keep to the same limits."""
    settings = replace(load(write()), serve=ServeSettings(port=-1))
    with pytest.raises(ConfigurationError, match=r"^serve\.port = -1 must be from 0 to 65535$"):
        config.check(settings)


def test_every_service(write: Callable[..., Path]) -> None:
    """One star stands for the names of all services; beside others it is refused."""
    assert load(write(("regions", 'services = ["*"]\nregions'))).services == ("*",)
    with pytest.raises(ConfigurationError, match="stands alone"):
        load(write(("regions", 'services = ["*", "s3"]\nregions')))


def test_unreadable(tmp_path: Path) -> None:
    """A file that is not there, or is no text, is one named error."""
    with pytest.raises(ConfigurationError, match=r"there is no configuration .*nowhere\.toml"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="binary is wrong"):
        load(tmp_path / "binary")


# -- find -------------------------------------------------------------------------------------------------------


def test_find_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the one named, else $HSMKMS_CONFIG, here, the user's, the system's; each gives way to the former."""
    here, home, system = tmp_path / "here", tmp_path / "home", tmp_path / "etc"
    user, xdg = home / ".config/hsmkms/hsmkms.toml", tmp_path / "xdg/hsmkms/hsmkms.toml"
    for file in (here / "hsmkms.toml", user, xdg, system / "hsmkms.toml"):
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.chdir(here)
    monkeypatch.setattr(config, "SYSTEM_FILE", system / "hsmkms.toml")
    environ = {"HOME": str(home), "HSMKMS_CONFIG": "named.toml", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}

    assert find(Path("x.toml"), environ) == Path("x.toml")
    assert find(None, environ) == Path("named.toml")
    del environ["HSMKMS_CONFIG"]
    assert find(None, environ) == Path("hsmkms.toml")
    (here / "hsmkms.toml").unlink()
    assert find(None, environ) == xdg
    del environ["XDG_CONFIG_HOME"]
    assert find(None, environ) == user
    user.unlink()
    assert find(None, environ) == system / "hsmkms.toml"


def test_find_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the error says how to make one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "none")
    for environ in ({}, {"HOME": str(tmp_path)}, {"HSMKMS_CONFIG": "", "XDG_CONFIG_HOME": "relative"}):
        with pytest.raises(ConfigurationError, match="run `hsmkms init --data-dir DIR`"):
            find(None, environ)


# -- the URI ----------------------------------------------------------------------------------------------------


OPENCRYPTOKI = TokenUri(label="ock", serial="", manufacturer="IBM", model="Soft")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("pkcs11:token=The%20Software%20PKCS%2311", TokenUri(label="The Software PKCS#11")),
        ("PKCS11:serial=12ab;token=x", TokenUri(label="x", serial="12ab")),
        ("pkcs11:manufacturer=Snake%20Oil,%20Inc.;model=1.0", TokenUri(manufacturer="Snake Oil, Inc.", model="1.0")),
        ("pkcs11:slot-id=327?", TokenUri(slot_id=327)),
        ("pkcs11:model=Soft;manufacturer=IBM%20%20;serial=%00%00%00;token=ock%00%00", OPENCRYPTOKI),
        ("pkcs11:model=Soft;manufacturer=IBM;serial=;token=ock%20", OPENCRYPTOKI),
        ("pkcs11:token=k%C3%A4se", TokenUri(label="käse")),
        ("pkcs11:token=a=b&c", TokenUri(label="a=b&c")),
        ("pkcs11:token=x?pin-source=/etc/pin", TokenUri(label="x", pin_file=Path("/etc/pin"))),
        ("pkcs11:token=x?pin-source=file:/a/pin", TokenUri(label="x", pin_file=Path("/a/pin"))),
        (
            "pkcs11:token=x?pin-source=file:%2F%2F/a/my%2520pin&module-path=/lib/m.so",
            TokenUri(label="x", pin_file=Path("/a/my pin"), module=Path("/lib/m.so")),
        ),
    ],
)
def test_uri_read(uri: str, told: TokenUri) -> None:
    """Attributes are percent-decoded; those of the path choose the token, those of the query say module and PIN."""
    assert parse_uri(uri) == told


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("token=x", "must begin with pkcs11:"),
        ("pkcs12:token=x", "must begin with pkcs11:"),
        ("pkcs11:", "chooses no token"),
        ("pkcs11:?module-path=/m.so", "chooses no token"),
        ("pkcs11:token=x;object=key", "'object' names an object on the token"),
        ("pkcs11:token=x;type=private", "'type' names an object on the token"),
        ("pkcs11:token=x;library-manufacturer=y", "'library-manufacturer' does not choose a token here"),
        ("pkcs11:token=%20%00", "token is empty"),
        ("pkcs11:token=x;colour=blue", "'colour'"),
        ("pkcs11:token", "token is empty"),
        ("pkcs11:token=x;token=y", "names token twice"),
        ("pkcs11:token=%zz", "no two hex digits"),
        ("pkcs11:token=%ff", "not UTF-8"),
        ("pkcs11:slot-id=-1", "must be a number"),
        ("pkcs11:token=x?module-name=m", "'module-name' is not searched for: name the module's file with module-path"),
        ("pkcs11:token=x?pin-source=|/bin/pin", "token.pin.command"),
        ("pkcs11:token=x?pin-source=https://host/pin", "must be a file"),
        ("pkcs11:token=x?pin-source=file://host/pin", "must be a file"),
    ],
)
def test_uri_refused(uri: str, part: str) -> None:
    """What does not choose a token, or cannot be read, is refused by name."""
    with pytest.raises(ConfigurationError, match=re.escape(part)):
        parse_uri(uri)


@pytest.mark.parametrize(
    "uri", ["token=x?pin-value={}", "token=x;pin-value={}", "token=x&PIN-value={}", "%70in-value={}"]
)
def test_uri_with_pin(write: Callable[..., Path], uri: str) -> None:
    """A PIN in the URI is refused wherever it stands, and not repeated."""
    file = write(('label = "here"', f'uri = "pkcs11:{uri.format(PIN)}"'))
    with pytest.raises(ConfigurationError, match="holds a PIN") as caught:
        load(file)
    assert PIN not in "".join(traceback.format_exception(caught.value))


# -- the PIN ----------------------------------------------------------------------------------------------------


def refusal(pin: PinSettings) -> str:
    """The message of the PinError, after a search for the PIN in all that hangs on the error."""
    with pytest.raises(PinError) as caught:
        read_pin(pin)
    chain: list[BaseException] = [caught.value]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        assert PIN not in f"{link} {link!r} {vars(link)}"
        assert PIN.encode() not in getattr(link, "object", b"")
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_file(pin_file: Path, mode: int) -> None:
    """A private file gives its one line."""
    pin_file.chmod(mode)
    assert read_pin(PinSettings(file=pin_file)) == PIN


@pytest.mark.parametrize("text", [PIN, f"{PIN}\n", f"{PIN}\r\n"])
def test_line_end(pin_file: Path, text: str) -> None:
    """One line end is not part of the PIN."""
    pin_file.write_bytes(text.encode())
    assert read_pin(PinSettings(file=pin_file)) == PIN


def test_blanks(pin_file: Path) -> None:
    """Blanks are part of the PIN."""
    pin_file.write_text(f" {PIN} \n")
    assert read_pin(PinSettings(file=pin_file)) == f" {PIN} "


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610])
def test_open_file(pin_file: Path, mode: int) -> None:
    """A file that others may touch is refused with the command that mends it."""
    pin_file.chmod(mode)
    assert f"run `chmod 600 {pin_file}`" in refusal(PinSettings(file=pin_file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_foreign_file(pin_file: Path) -> None:
    """A file of another user is refused: its owner could change it at any time."""
    os.chown(pin_file, 12345, -1)
    assert "belongs to another user: run hsmkms as the uid 12345" in refusal(PinSettings(file=pin_file))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "holds no PIN"),
        (b"\n", "holds no PIN"),
        (f"{PIN}\n\n".encode(), "more than one line"),
        (f"{PIN}\nmore\n".encode(), "more than one line"),
        (f"{PIN}\0".encode(), "control characters"),
        (f"{PIN}\xff".encode("latin-1"), "not UTF-8"),
        (PIN.encode() * 500, "4096 bytes or more"),
    ],
)
def test_bad_file(pin_file: Path, content: bytes, part: str) -> None:
    """What cannot be a PIN is refused before it costs a try on the token."""
    pin_file.write_bytes(content)
    assert part in refusal(PinSettings(file=pin_file))


def test_missing_file(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is named."""
    assert "No such file" in refusal(PinSettings(file=tmp_path / "none"))
    assert "Is a directory" in refusal(PinSettings(file=tmp_path))


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable gives the PIN; a missing or empty one is named."""
    settings = PinSettings(environment="THE_PIN")
    monkeypatch.setenv("THE_PIN", PIN)
    assert read_pin(settings) == PIN
    monkeypatch.setenv("THE_PIN", "")
    assert "THE_PIN holds no PIN" in refusal(settings)
    monkeypatch.delenv("THE_PIN")
    assert "THE_PIN (token.pin.environment) is not set" in refusal(settings)


def python(code: str) -> PinSettings:
    """A PIN command that runs some Python."""
    return PinSettings(command=(sys.executable, "-c", code))


def test_command() -> None:
    """The first line that the program prints is the PIN, and no shell reads the arguments."""
    assert read_pin(python(f"print('{PIN}\\nmore')")) == PIN
    assert read_pin(PinSettings(command=("printf", "%s", "$HOME; `id`"))) == "$HOME; `id`"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (f"import sys; print('{PIN}'); print('{PIN}', file=sys.stderr); sys.exit(3)", "ended with status 3"),
        ("pass", "holds no PIN"),
        (f"import sys; sys.stdout.buffer.write(b'{PIN}\\xff')", "not UTF-8"),
    ],
)
def test_bad_command(capfd: pytest.CaptureFixture[str], code: str, part: str) -> None:
    """A program that fails is named; nothing that it printed is shown."""
    with pytest.raises(PinError, match=part) as caught:
        read_pin(python(code))
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert capfd.readouterr() == ("", "")


def test_no_command() -> None:
    """A program that cannot be started is named."""
    assert "/nowhere/pin could not be started (FileNotFoundError)" in refusal(PinSettings(command=("/nowhere/pin",)))


def test_slow_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes too long is ended, and what it had printed is dropped."""
    monkeypatch.setattr(pins, "COMMAND_SECONDS", 0.5)
    begin = time.monotonic()
    assert "longer than 0.5 seconds" in refusal(python(f"import time; print('{PIN}', flush=True); time.sleep(60)"))
    assert time.monotonic() - begin < 30


def test_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person is asked, at a terminal only; an empty answer is no PIN."""
    settings = PinSettings(prompt=True)
    assert read_pin(settings, interactive=lambda: PIN) == PIN
    with pytest.raises(PinError, match="the answer holds no PIN"):
        read_pin(settings, interactive=lambda: "")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert "needs a terminal" in refusal(settings)


def test_prompt_at_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the question is put without an echo."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: PIN if prompt == "PIN of the token: " else "")
    assert read_pin(PinSettings(prompt=True)) == PIN


def test_secret(caplog: pytest.LogCaptureFixture) -> None:
    """No way of printing a secret shows it."""
    secret = Secret(PIN)
    logging.getLogger("test").warning("%s %r %s", secret, [secret], {"pin": secret})
    assert PIN not in f"{secret} {secret!r} {[secret]} {caplog.text}"
    assert secret.reveal() == PIN


# -- the samples ------------------------------------------------------------------------------------------------

REFERENCE = Settings(
    account_id="111122223333",
    regions=("eu-central-1", "eu-west-1"),
    token=TokenSettings(
        module=Path("/usr/lib/softhsm/libsofthsm2.so"), label="hsmkms", pin=PinSettings(file=Path("pin"))
    ),
)


@pytest.mark.parametrize("sample", sorted(CONF.rglob("*.toml")), ids=str)
def test_samples(sample: Path) -> None:
    """Every sample loads."""
    settings = load(sample)
    assert settings.account_id == "111122223333"
    assert settings.token.module is not None


def test_sample_of_todays_aws() -> None:
    """The sample turns every rule that differs from today's AWS, and nothing else of its tables."""
    settings = load(CONF / "aws-today.toml")
    assert settings.rotation == RotationSettings(custom_period=True, managed_period_days=365, imported_on_demand=True)
    assert settings.imports == ImportSettings(valid_to_within_days=365)


def test_softhsm_sample() -> None:
    """The sample for SoftHSM keeps its token in the folder that the sample of SoftHSM's own file names."""
    settings = load(CONF / "softhsm/hsmkms.toml")
    told = re.search(r"^directories.tokendir = (.+)$", (CONF / "softhsm/softhsm2.conf").read_text(), re.MULTILINE)
    assert told is not None
    assert Path(told[1]).is_relative_to(settings.data_dir)
    assert Path(settings.token.environment["SOFTHSM2_CONF"]).name == "softhsm2.conf"


def test_reference_is_the_template() -> None:
    """conf/hsmkms.toml is what ``init_text`` writes."""
    assert (CONF / "hsmkms.toml").read_text() == init_text(REFERENCE)


def settings_of(section: type[msgspec.Struct], table: str = "") -> list[tuple[str, str]]:
    """(table, setting) of a section and those below; for a table of free names only the table."""
    found, kinds = [], get_type_hints(section)  # without the limits
    for each in msgspec.structs.fields(section):
        inner = f"{table}.{each.encode_name}".lstrip(".")
        if isinstance(each.type, type) and issubclass(each.type, msgspec.Struct):
            found += settings_of(each.type, inner)
        elif each.name != "further_tokens":  # it is the rest of [[token]]
            free_names = kinds[each.name] in (dict[str, str], dict[str, float])
            found.append((inner, "") if free_names else (table, each.name))
    return found


def tables_of(text: str) -> dict[str, str]:
    """The text of each table by its name; what stands before the first is named ""."""
    parts = re.split(r"^\[([a-z.]+)\]$", f"\n{text}", flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


@pytest.mark.parametrize(("table", "setting"), settings_of(Settings))
def test_every_setting_is_documented(table: str, setting: str) -> None:
    """Every setting stands in conf/hsmkms.toml, in its table, below a comment."""
    text = tables_of((CONF / "hsmkms.toml").read_text())[table]
    assert re.search(rf"^# .+\n(.+\n)*?(# )?{setting or '[A-Za-z0-9_]+'} = ", text, re.MULTILINE)


ALTERNATIVES = {"uri": ("label",), "environment": ("file",), "command": ("file",), "prompt": ("file",)}
TOGETHER = {"certificate": "private_key", "private_key": "certificate"} | dict.fromkeys(
    (*(f"store.password {name}" for name in ("file", "environment", "command")), "store listen_url"), "url"
)
COMMENTED = [
    f"{table} {setting}".strip()
    for table, text in tables_of((CONF / "hsmkms.toml").read_text()).items()
    for setting in re.findall(r"^# (\w+) = .+$", text, re.MULTILINE)
]


@pytest.mark.parametrize("commented", COMMENTED)
def test_commented_settings(tmp_path: Path, commented: str) -> None:
    """Every line that conf/hsmkms.toml shows as a comment is right when put in force, alone or for its alternative."""
    table, _, setting = commented.rpartition(" ")
    text = (CONF / "hsmkms.toml").read_text()
    if setting == "uri":  # it brings the PIN's place with it
        text = text.replace('file = "pin"', "")
    other = TOGETHER.get(commented, TOGETHER.get(setting))
    if other is not None:
        text = re.sub(rf"^# {other} = (?!.pkcs11)", f"{other} = ", text, flags=re.MULTILINE)
    for alternative in ALTERNATIVES.get(setting, ()) if table.startswith("token") else ():
        text = re.sub(rf"^{alternative} = .*$", "", text, flags=re.MULTILINE)
    head, mark, part = text.partition(f"[{table}]\n") if table else ("", "", text)
    in_force, lines = re.subn(rf"^# {setting} = ", f"{setting} = ", part, count=1, flags=re.MULTILINE)
    file = tmp_path / "hsmkms.toml"
    file.write_text(f"{head}{mark}{in_force}")
    assert lines == 1
    assert isinstance(load(file), Settings)


WRONG_STORES = {
    'url = "sqlite:///x"': "must begin with postgresql",
    'url = "postgresql+psycopg://me:hunter2@db/hsmkms"': "must not hold a password",
    'password = {file = "hunter2"}': "goes with store.url",
    'listen_url = "postgresql+psycopg://db/x"': "goes with store.url",
    'url = "postgresql+psycopg://db/x"\nlisten_url = "postgresql+psycopg://me:hunter2@db/x"': "not hold a password",
    'url = "postgresql+psycopg://db/x"\nlisten_url = "http://db/x"': "listen_url must begin with postgresql",
    'consistency = "strict"': "always strict",
    'consistency = "loose"': "must be bounded or strict",
    "stale_seconds = 0": "goes with store.url",
    'url = "postgresql+psycopg://db/x"\npassword = {file = "hunter2", environment = "HUNTER2"}': "name one of",
    'url = "postgresql+psycopg://db/x"\npassword = {command = []}': "must name a program",
}


@pytest.mark.parametrize("text", WRONG_STORES)
def test_wrong_stores(tmp_path: Path, text: str) -> None:
    """What is wrong is said without the password that may stand there."""
    file = tmp_path / "hsmkms.toml"
    file.write_text(
        (CONF / "hsmkms.toml").read_text().replace("[store]\n", f"[store]\n{text}\n").replace("[store.password]", "")
    )
    with pytest.raises(ConfigurationError, match=WRONG_STORES[text]) as caught:
        load(file)
    assert "hunter2" not in str(caught.value)


def test_passwords_of_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a variable or a program gives it, each time anew; a file that others can read is refused."""
    file = tmp_path / "password"
    file.touch(0o600)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho from-a-program\n")
    program.chmod(0o700)
    read = password_reader(PasswordSettings(file=file))
    assert read is not None
    for password in ("first", "second"):
        file.write_text(f"{password}\nmore\n")
        assert read() == password
    monkeypatch.setenv("DATABASE_PASSWORD", "from-a-variable")
    for source, expected in (
        (PasswordSettings(environment="DATABASE_PASSWORD"), "from-a-variable"),
        (PasswordSettings(command=(str(program),)), "from-a-program"),
    ):
        other = password_reader(source)
        assert other is not None
        assert other() == expected
    assert password_reader(PasswordSettings()) is None
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="holds no password"):
        read()
    file.write_text("hunter2")
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        read()
    assert "hunter2" not in str(caught.value)


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
names = texts.filter(lambda text: not set(text) & {"=", "\0"})
paths = names.filter(lambda text: "~" not in text).map(lambda text: Path("/") / text)
values = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda text: "/" not in text)
"""Of variables; one that is the path of a file that others can change is refused."""
pin_settings = st.one_of(
    st.builds(PinSettings, file=paths),
    st.builds(PinSettings, environment=texts),
    st.builds(PinSettings, command=st.tuples(texts.filter(lambda text: "/" not in text), texts)),
    st.just(PinSettings(prompt=True)),
)


@given(
    st.builds(
        TokenSettings,
        module=paths,
        label=texts,
        serial=st.none() | texts,
        uri=st.none(),
        pin=pin_settings,
        environment=st.dictionaries(names, values, max_size=3),
        init_reserved=st.none() | texts,
        max_sessions=st.integers(1, 1000),
        session_wait_seconds=st.floats(0, 3600),
        replication_seconds=st.floats(0, 3600),
    ),
    st.builds(ReconcileSettings, grace_hours=st.floats(0, 1000)),
    st.builds(
        RotationSettings,
        period_days=st.integers(90, 2560),
        custom_period=st.booleans(),
        managed_period_days=st.integers(90, 2560),
        imported_on_demand=st.booleans(),
    ),
    st.builds(ImportSettings, valid_to_within_days=st.none() | st.integers(1, 10_000), host_unwrap=st.booleans()),
    st.builds(PermissionSettings, unknown_principals=st.sampled_from(["refuse", "accept"])),
    paths,
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    token: TokenSettings,
    reconcile: ReconcileSettings,
    rotation: RotationSettings,
    imports: ImportSettings,
    permissions: PermissionSettings,
    data_dir: Path,
) -> None:
    """What ``init_text`` writes, ``load`` reads as the same settings, whatever characters are in them."""
    file = tmp_path_factory.getbasetemp() / "round-trip.toml"
    settings = Settings(
        account_id="111122223333",
        regions=("eu-central-1", "us-gov-west-1"),
        default_region="us-gov-west-1",
        token=token,
        data_dir=data_dir,
        services=("s3", "my/own-service_1"),
        rotation=rotation,
        imports=imports,
        permissions=permissions,
        reconcile=reconcile,
    )
    file.write_text(init_text(settings), encoding="utf-8")
    assert load(file) == settings


# -- several tokens ---------------------------------------------------------------------------------------------------

TWO_TOKENS = """
account_id = "111122223333"
regions = ["eu-central-1"]
[[token]]
module = "old.so"
label = "old"
pin.file = "pin"
[[token]]
module = "new.so"
uri = "pkcs11:token=new?pin-source=new-pin"
"""


def test_several_tokens(tmp_path: Path) -> None:
    """Each [[token]] is read as one [token] is; paths count from the file's folder."""
    file = tmp_path / "two.toml"
    file.write_text(TWO_TOKENS)
    settings = load(file)
    assert [(each.module, each.pin.file) for each in settings.tokens] == [
        (tmp_path / "old.so", tmp_path / "pin"),
        (tmp_path / "new.so", tmp_path / "new-pin"),
    ]
    assert settings.tokens == (settings.token, *settings.further_tokens)


def test_single_table_before_several(tmp_path: Path) -> None:
    """A [[token]] that was added below a [token] is refused with what to do."""
    file = tmp_path / "two.toml"
    file.write_text(TWO_TOKENS.replace("[[token]]", "[token]", 1))
    with pytest.raises(
        ConfigurationError, match=re.escape("it has a [token] beside a [[token]]: make [token] a [[token]]")
    ):
        load(file)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            'uri = "pkcs11:token=new?pin-source=new-pin"',
            'label = "old"\npin.file = "p"',
            "each must name a different token",
        ),
        ('pin.file = "pin"', "pin.prompt = true", "there is one [token] only"),
        ('label = "old"\n', "", "must say which token"),
        ('module = "new.so"\n', "", "the module must be named once"),
        ('label = "old"', 'labels = "old"', "unknown field `labels`"),
        ('label = "old"', "max_sessions = 0\nlabel = 'old'", "max_sessions = 0 must be from 1 to 65535"),
        (
            'label = "old"\n',
            "label = 'old'\nserial = []\n",
            "token.serial must name at least one member ([[token]] number 1, label 'old')",
        ),
        ('[[token]]\nmodule = "new.so"', '[token]\nmodule = "new.so"', "make [token] a [[token]]"),
    ],
)
def test_wrong_settings_of_several_tokens(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    """What is wrong with one of them is told."""
    file = tmp_path / "two.toml"
    assert before in TWO_TOKENS
    file.write_text(TWO_TOKENS.replace(before, after))
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        load(file)
