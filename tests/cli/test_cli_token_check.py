"""token-check and init on a token that no installation uses yet: SoftHSM, the shim, NSS, p11-kit."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import shims
import spylog
from cli_site import Site, at_terminal, hide_rsa

LABEL = "house token"
PIN = "correct horse"
NSS_MODULES = ("/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so")
P11_KIT_MODULE = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")
SECONDS = 60


@pytest.fixture
def pin_file(bare: Site) -> Path:
    """A file with the PIN, in a place that nothing but its reader need know."""
    file = bare.folder / "place-of-the-pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def soft(bare: Site) -> tuple[str, str]:
    """A SoftHSM token; its module, and the variable that it needs."""
    made = json.loads(bare.program("make_token", bare.folder / "elsewhere", LABEL, PIN))
    return made["module"], f"SOFTHSM2_CONF={made['SOFTHSM2_CONF']}"


@pytest.fixture
def soft_without_rsa(soft: tuple[str, str]) -> tuple[str, str]:
    """The same for tests of what is not about RSA."""
    _, variable = soft
    hide_rsa(Path(variable.partition("=")[2]))
    return soft


def outcomes(answer: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    """The outcome of each check."""
    return {check["Name"]: check["Outcome"] for check in answer["Checks"]}


def test_before_there_is_an_installation(bare: Site, soft: tuple[str, str], pin_file: Path) -> None:
    """A good token passes with status 0; the report has it all, and nothing of the PIN or its place."""
    module, variable = soft
    options = ("--module", module, "--environment", variable, "--token-label", LABEL, "--pin-file", pin_file)
    done = bare.run("token-check", *options, "--report", "report.json")
    checks = outcomes(done.json)
    assert {checks[name] for name in ("module", "token", "mechanisms", "login", "stored keys", "RSA_4096")} == {"works"}
    file = bare.folder / "report.json"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    report = json.loads(text)
    assert report["Checks"] == done.json["Checks"]
    assert report["Result"] == done.json["Result"] == "usable"
    assert {*report["Packages"]} == {"python-pkcs11", "cryptography"}
    assert (report["Module"]["File"], report["Module"]["Environment"]) == ("libsofthsm2.so", ["SOFTHSM2_CONF"])
    assert {"Name": "AES_GCM", "MinKeySize": 16, "MaxKeySize": 32}.items() <= next(
        mechanism.items() for mechanism in report["Token"]["Mechanisms"] if mechanism["Name"] == "AES_GCM"
    )
    assert PIN not in text
    assert pin_file.name not in text
    assert not bare.data.exists()
    again = bare.run("token-check", *options, "--report", "report.json")
    assert again.error == "StoreError: report.json is there already: name another file for --report"
    assert file.read_text() == text


def test_at_a_terminal(bare: Site, soft_without_rsa: tuple[str, str]) -> None:
    """People are asked for the PIN, and shown a table in which a limit says what it concerns and what to do."""
    module, variable = soft_without_rsa
    named = ("--module", module, "--environment", variable)
    shown, status = at_terminal(bare, "token-check", *named, answer=PIN, prompt="PIN of the token:")
    assert status == 0, shown
    (line,) = (each for each in shown.splitlines() if "ML_DSA_44 " in each)
    assert "limited" in line
    assert "the token has no" in line
    assert "Concerns KeySpec" in line
    assert "To do:" in shown
    assert PIN not in shown


def test_crash(bare: Site, soft_without_rsa: tuple[str, str], pin_file: Path, shim_path: Path) -> None:
    """A module that crashes ends no command: its segmentation fault is a finding, with status 1 and no other output."""
    module, variable = soft_without_rsa
    control = bare.folder / "shim.control"
    shims.order(control, "fault C_SignInit * crash")
    variables = [f"{name}={value}" for name, value in shims.variables(Path(module), control).items()]
    options = [option for each in (variable, *variables) for option in ("--environment", each)]
    done = bare.run("token-check", "--module", shim_path, *options, "--pin-file", pin_file)
    assert (done.status, done.stderr) == (1, "")
    checks = {check["Name"]: check for check in json.loads(done.stdout)["Checks"]}
    assert checks["HMAC-SHA-256"]["Detail"] == "the process of the module crashed with SIGSEGV"
    assert checks["HMAC-SHA-256"]["Outcome"] == checks["ECC_NIST_P256"]["Outcome"] == "failed"
    assert checks["AES-GCM, published vector"]["Outcome"] == checks["data objects"]["Outcome"] == "works"
    assert checks["clean-up"]["Outcome"] == "works"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--token-label", "x"), "missing --module"),
        (("--module", "x.so", "--token", "x"), "--token is for a token of the configuration"),
        (("--module", "x.so", "--uri", "pkcs11:token=x", "--token-label", "x"), "--uri goes without --token-label"),
        (
            ("--module", "x.so", "--uri", "pkcs11:token=x?module-path=/y.so"),
            "--module goes without module-path in --uri",
        ),
        (("--module", "x.so", "--environment", "NOTHING"), "--environment takes NAME=VALUE, not 'NOTHING'"),
    ],
)
def test_options_that_do_not_fit(bare: Site, options: tuple[str, ...], sentence: str) -> None:
    """Options that contradict each other, or lack one, are wrong usage."""
    refused = bare.run("token-check", *options)
    assert (refused.status, refused.stdout) == (2, "")
    assert sentence in " ".join(refused.stderr.replace("│", " ").split())


def test_wrong_uri(bare: Site) -> None:
    """A URI that names an object is refused by the name of the attribute, and the option's own."""
    message = bare.run("token-check", "--module", "/x.so", "--uri", "pkcs11:token=x;object=y").error
    assert message == (
        "ConfigurationError: --uri: 'object' names an object on the token, and hsmkms makes its own objects: "
        "leave it out"
    )


def test_module_of_another_user(bare: Site, pin_file: Path) -> None:
    """A module that another user can change is not loaded, in no process."""
    module = bare.folder / "open.so"
    module.write_bytes(b"")
    module.chmod(0o666)
    message = bare.run("token-check", "--module", module, "--pin-file", pin_file).error
    assert message.startswith(f"ConfigurationError: the PKCS#11 module {module} can be changed by another user")


# -- init -----------------------------------------------------------------------------------------------------------


def test_init_by_uri(bare: Site, soft_without_rsa: tuple[str, str], pin_file: Path) -> None:
    """A URI with padding, as p11tool prints it, chooses the token, its module and its PIN file, at once and later."""
    module, variable = soft_without_rsa
    uri = f"pkcs11:model=SoftHSM%20v2;token=house%20token%20%00?module-path={module}&pin-source=file:{pin_file}"
    made = bare.run("init", "--data-dir", "data", "--uri", uri, "--environment", variable).json
    assert (made["Module"], made["TokenLabel"], made["PinFile"]) == (module, LABEL, str(pin_file))
    assert 'uri = "pkcs11:model=SoftHSM%20v2;token=house%20token%20%00"' in bare.config.read_text()
    assert bare.new_key()
    assert bare.run("token-check", "--query", "Checks[?Outcome=='failed']").json == []


def test_init_starts_the_module_once(bare: Site, soft: tuple[str, str], pin_file: Path, spy_path: Path) -> None:
    """Some modules cannot be initialised twice in a process: init does so once, and finalises once.

    Once more is by the process that tries refused material, whose end closes the module.
    """
    module, variable = soft
    log = bare.folder / "spy.log"
    variables = (variable, f"PKCS11SPY={module}", f"PKCS11SPY_OUTPUT={log}")
    options = [option for each in variables for option in ("--environment", each)]
    named = ("--module", spy_path, "--token-label", LABEL, "--pin-file", pin_file)
    assert bare.run("init", "--data-dir", "data", *named, *options).status == 0
    calls = spylog.read(log)
    assert len(spylog.named(calls, "C_Initialize")) == 1 + 1
    assert len(spylog.named(calls, "C_Finalize")) == 1


def test_token_without_a_serial(bare: Site, soft_without_rsa: tuple[str, str], pin_file: Path, shim_path: Path) -> None:
    """A token that reports no serial is chosen by its label alone, by init and by what runs after it."""
    module, variable = soft_without_rsa
    control = bare.folder / "shim.control"
    shims.order(control, "no_serial")
    variables = [f"{name}={value}" for name, value in shims.variables(Path(module), control).items()]
    options = [option for each in (variable, *variables) for option in ("--environment", each)]
    named = ("--module", shim_path, "--token-label", LABEL, "--pin-file", pin_file)
    made = bare.run("init", "--data-dir", "data", *named, *options).json
    assert made["TokenSerial"] == ""
    assert "\nserial = " not in bare.config.read_text()
    key = bare.new_key()
    bare.config.write_text(bare.config.read_text().replace("\n# serial = ", '\nserial = ""\n# serial = '))
    assert bare.run("describe-key", "--key-id", key).json["KeyMetadata"]["KeyId"] == key
    checked = bare.run("token-check").json
    (token,) = (check for check in checked["Checks"] if check["Name"] == "token")
    assert token["Outcome"] == "limited"
    assert "it reports no serial" in token["Detail"]


# -- other modules --------------------------------------------------------------------------------------------------


def opened(answer: str) -> dict[str, str]:
    """The outcomes of the checks that every module with a token passes, whatever else it can do."""
    checks = outcomes(json.loads(answer))
    return {name: checks[name] for name in ("module", "token", "login", "random numbers", "clean-up", "closing")}


WORKS = dict.fromkeys(("module", "token", "login", "random numbers", "clean-up", "closing"), "works")


def test_nss(bare: Site, pin_file: Path) -> None:
    """NSS softokn, with its folder in pReserved: every check is made, and each that does not work says why."""
    module = next((each for each in NSS_MODULES if Path(each).is_file()), None)
    if module is None:
        pytest.skip("NSS softokn is not installed (package libnss3)")
    reserved = bare.program("make_nss_token", module, bare.folder / "nss", LABEL, PIN).strip()
    named = ("--module", module, "--token-label", LABEL, "--pin-file", pin_file, "--init-reserved", reserved)
    done = bare.run("token-check", *named)
    assert (done.status in (0, 1), done.stderr) == (True, "")
    assert opened(done.stdout) == WORKS
    answers = json.loads(done.stdout)["Checks"]
    assert "not tried" not in {answer["Outcome"] for answer in answers}
    assert all(answer["Advice"] and answer["Affects"] for answer in answers if answer["Outcome"] != "works")


def test_nss_without_its_parameters(bare: Site, pin_file: Path) -> None:
    """Without pReserved NSS does not start, which is a finding with its return code."""
    module = next((each for each in NSS_MODULES if Path(each).is_file()), None)
    if module is None:
        pytest.skip("NSS softokn is not installed (package libnss3)")
    done = bare.run("token-check", "--module", module, "--pin-file", pin_file)
    first, second, *_ = json.loads(done.stdout)["Checks"]
    assert (done.status, first["Name"], first["Outcome"]) == (1, "module", "failed")
    assert "C_Initialize: CKR_ARGUMENTS_BAD): it may want parameters" in first["Detail"]
    assert "--init-reserved" in first["Detail"]
    assert (first["Ckr"], "--module" in first["Advice"]) == ("CKR_ARGUMENTS_BAD", True)
    assert (second["Outcome"], second["Detail"]) == ("not tried", "it needs 'module', which did not succeed")


def test_nss_without_a_pin(bare: Site, pin_file: Path) -> None:
    """An NSS database without a PIN is not initialised: its label is named, with what is missing."""
    module = next((each for each in NSS_MODULES if Path(each).is_file()), None)
    if module is None:
        pytest.skip("NSS softokn is not installed (package libnss3)")
    (bare.folder / "nss").mkdir(mode=0o700)
    reserved = f"configdir='sql:{bare.folder / 'nss'}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    named = ("--module", module, "--token-label", "NSS Certificate DB", "--init-reserved", reserved)
    done = bare.run("token-check", *named, "--pin-file", pin_file, "--query", "Checks[?Name=='token'] | [0]")
    assert json.loads(done.stdout)["Detail"].endswith(
        "; not initialised, or without a user PIN: label 'NSS Certificate DB'"
    )


def test_no_token(bare: Site, soft: tuple[str, str], pin_file: Path) -> None:
    """A module that shows no token is said to need one, or its variables."""
    (bare.folder / "empty").mkdir(mode=0o700)
    (bare.folder / "empty.conf").write_text(f"directories.tokendir = {bare.folder / 'empty'}\n")
    named = ("--module", soft[0], "--environment", f"SOFTHSM2_CONF={bare.folder / 'empty.conf'}")
    done = bare.run("token-check", *named, "--pin-file", pin_file, "--query", "Checks[?Name=='token'] | [0]")
    shown = json.loads(done.stdout)
    assert shown["Detail"] == "no token fits any token; present: none"
    assert "initialise a token" in shown["Advice"]
    assert "--environment" in shown["Advice"]


@pytest.fixture
def p11_kit(bare: Site, soft: tuple[str, str]) -> Iterator[str]:
    """A server of p11-kit before SoftHSM; the variable that its client module needs."""
    program = shutil.which("p11-kit")
    if program is None or not P11_KIT_MODULE.is_file():
        pytest.skip("p11-kit and its client module are not installed (packages p11-kit, p11-kit-modules)")
    module, variable = soft
    name, _, value = variable.partition("=")
    socket = bare.folder / "p11-kit"
    server = subprocess.Popen(
        [program, "server", "--foreground", "--name", socket, "--provider", module, "pkcs11:"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {name: value},
    )
    deadline = time.monotonic() + SECONDS
    while not socket.exists():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"P11_KIT_SERVER_ADDRESS=unix:path={socket}"
    server.send_signal(signal.SIGTERM)
    server.wait(SECONDS)


def test_p11_kit(bare: Site, pin_file: Path, p11_kit: str) -> None:
    """SoftHSM behind p11-kit's client: every check is made; mechanisms that p11-kit does not forward are named."""
    named = ("--module", P11_KIT_MODULE, "--uri", "pkcs11:token=house%20token", "--environment", p11_kit)
    done = bare.run("token-check", *named, "--pin-file", pin_file)
    assert done.stderr == ""
    assert opened(done.stdout) == WORKS
    checks = {check["Name"]: check for check in json.loads(done.stdout)["Checks"]}
    assert checks["stored keys"]["Outcome"] == checks["data objects"]["Outcome"] == "works"
    for check in checks.values():
        assert "hsmkms token-check" not in check["Detail"], "leads to itself"
    assert "not tried" not in {check["Outcome"] for check in checks.values()}
