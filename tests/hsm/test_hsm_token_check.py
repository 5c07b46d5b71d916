"""token-check: every check is run, whatever the module does, and no object stays on the token."""

import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from devices import PIN, SLOW_CHECKS, MakeToken, SoftHsm, Token
from pkcs11 import exceptions
from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism
from shims import Played
from tokens.driver import Driver

from hsmkms.hsm import token_check
from hsmkms.hsm.checks import needed, stored
from hsmkms.hsm.checks.advice import ADVICE
from hsmkms.hsm.checks.bench import CHECK_LABEL, Bench
from hsmkms.hsm.checks.messages import CLOSING, LOGIN, MODULE, SESSIONS, TOKEN
from hsmkms.hsm.checks.steps import CLEAN_UP, STEPS
from hsmkms.hsm.checks.stored import remove_leftovers
from hsmkms.hsm.ckr_names import ckr_name
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.objects.attributes import AES_256_BACKING_KEY
from hsmkms.hsm.objects.data_objects import keep_note
from hsmkms.hsm.objects.objects import generate
from hsmkms.hsm.session.check_jobs import job_for
from hsmkms.hsm.session.login import open_session
from hsmkms.hsm.token_check import Check, CheckReport, Outcome, run_checks
from hsmkms.secret import Secret

NAMES = [name for name in token_check.ALL if name not in SLOW_CHECKS]
IMPORTS = ["OAEP SHA-1", "OAEP SHA-256", "AES-KWP", "AES-CMAC", "honest lengths", "imported kinds"]


def check(token: Token, pin: str | None = "", seconds: float = 300, **changes: object) -> CheckReport:
    """Check a token that no installation uses, with its own PIN, another one, or none."""
    secret = Secret(pin or token.pin) if pin is not None else None
    with TemporaryDirectory() as folder:
        settings = token.settings(**{"state_dir": Path(folder)} | changes)
        job = job_for(settings, secret, installed=False)
        return run_checks(msgspec.structs.replace(job, done=SLOW_CHECKS), seconds)


def outcomes(report: CheckReport, *outcomes: Outcome) -> list[str]:
    """Return the names of the checks with that outcome."""
    return [each.name for each in report if each.outcome in outcomes]


def left_on(token: Token) -> int:
    """Count the objects on the token."""
    device = token.open()
    with device.connection.pool.session() as session:
        count = len(list(session.get_objects({})))
    device.close()
    return count


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """Return a token behind the shim."""
    return Played.of(make_token(), shim_path)


def test_every_check_is_made(token: Token, driver: Driver) -> None:
    """Each check is listed, in order, and fails only if that is known; limited ones say what they affect and advise."""
    report = run_checks(job_for(token.settings(), Secret(token.pin), installed=False))
    assert [each.name for each in report] == list(token_check.ALL)
    assert {each.name: each.detail for each in report if not each.passed}.keys() == {*driver.failed_checks}
    assert report.passed == (not driver.failed_checks)
    limited = [each for each in report if each.outcome is Outcome.LIMITED]
    assert all(each.affects and each.advice for each in limited)
    assert not [each.name for each in limited if "no installation" in each.affects]
    assert all(not each.affects and not each.advice for each in report if each.outcome is Outcome.WORKS)
    assert left_on(token) == 0


def test_what_softhsm_lacks(token: Token) -> None:
    """On SoftHSM 2.6.1 some checks are limited, and the token can be used."""
    report = check(token)
    assert report.passed
    assert {"OAEP SHA-256", "honest lengths", "ML_DSA_44"} <= {*outcomes(report, Outcome.LIMITED)}


def test_facts(token: Token) -> None:
    """Module, token and mechanisms are described; the PIN, its path and values of variables are not in the report."""
    report = check(token)
    assert report.facts["Module"]["File"] == token.module.name
    assert report.facts["Module"]["Environment"] == [*token.environment]
    assert (report.facts["Token"]["Label"], report.facts["Token"]["Serial"]) == (token.label, token.serial)
    assert "AES_CBC" in [each["name"] for each in report.facts["Token"]["Mechanisms"]]
    text = json.dumps(msgspec.to_builtins(report))
    assert token.pin not in text
    assert not [value for value in token.environment.values() if len(value) > 1 and value in text]


def test_a_crash_is_a_finding(played: Played) -> None:
    """A segmentation fault fails the running check, and all others are run."""
    played.order("fault C_UnwrapKey * crash")
    report = check(played.token)
    assert [each.name for each in report] == NAMES
    assert outcomes(report, Outcome.FAILED) == [*IMPORTS, "refused material"]
    crashed = {each.name: each for each in report}["AES-KWP"]
    assert crashed.detail == "the process of the module crashed with SIGSEGV"
    assert "ImportKeyMaterial" in crashed.affects
    assert "bug report" in crashed.advice
    assert outcomes(report, Outcome.UNTRIED) == []
    played.order()
    assert left_on(played.token) == 0


def test_stored_objects_are_removed_after_a_crash(played: Played) -> None:
    """A key that a crash leaves on the token is removed by the next process, be it of this run or of another."""
    played.order("fault C_Sign * crash")
    before = tuple(NAMES[: NAMES.index("stored keys")])
    made: dict[str, Check] = {}
    job = job_for(played.token.settings(), Secret(PIN), installed=False)
    ending = token_check._run_once(msgspec.structs.replace(job, done=before), 300, made, {})
    assert ending == (("stored keys",), "crashed with SIGSEGV")
    assert left_on(played.token) == 1
    others = tuple(name for name in token_check.ALL if name not in ("stored keys", CLEAN_UP, CLOSING))
    report = run_checks(msgspec.structs.replace(job, done=others))
    assert {each.name: each.outcome for each in report} == {
        "stored keys": Outcome.FAILED,
        CLEAN_UP: Outcome.WORKS,
        CLOSING: Outcome.WORKS,
    }
    assert left_on(played.token) == 0


def test_leftovers(device: TokenDevice) -> None:
    """Objects of checks are removed by their label; those of others stay."""
    support = device.profile.attributes
    with device.connection.pool.session() as session:
        generate(session, AES_256_BACKING_KEY, os.urandom(16), CHECK_LABEL, support)
        generate(session, AES_256_BACKING_KEY, os.urandom(16), "hsmkms/another", support)
        keep_note(session, CHECK_LABEL, CHECK_LABEL, b"x")
        assert remove_leftovers(session) == (2, [])
        (kept,) = session.get_objects({})
        assert kept[Attribute.LABEL] == "hsmkms/another"


def test_two_runs_leave_each_others_objects(device: TokenDevice) -> None:
    """Objects of another run stay, and are removed by that run, or by any run after ten minutes."""
    support = device.profile.attributes
    with device.connection.pool.session() as session:
        old = stored._MARK + bytes(4) + (int(time.time()) - 601).to_bytes(8)
        generate(session, AES_256_BACKING_KEY, stored._mark("0000aaaa"), CHECK_LABEL, support)
        generate(session, AES_256_BACKING_KEY, old, CHECK_LABEL, support)
        label = f"{CHECK_LABEL} 0000aaaa"
        keep_note(session, label, label, stored._mark("0000aaaa"))
        assert remove_leftovers(session, "0000bbbb") == (1, [])
        bench = Bench(device.connection.token, session, lambda: open_session(device.connection.token), "0000bbbb")
        assert stored.data_objects(bench).outcome is Outcome.WORKS
        assert stored.stored_key(bench).outcome is Outcome.WORKS
        assert len(list(session.get_objects({}))) == 2
        assert remove_leftovers(session, "0000aaaa") == (2, [])
        assert list(session.get_objects({})) == []


def test_variables_are_the_modules_own(token: SoftHsm) -> None:
    """Variables for the module are set just before it is loaded: they affect neither the program nor its loader."""
    environment = token.environment | {"PYTHONHASHSEED": "no number", "LD_PRELOAD": "/nowhere/at-all.so"}
    report = check(token, None, environment=environment)
    assert {each.name: each.outcome for each in report}["mechanisms"] is Outcome.WORKS


@pytest.mark.parametrize(
    ("order", "failed", "made"),
    [
        ("fault C_Initialize * crash", MODULE, []),
        ("fault C_GetTokenInfo * crash", TOKEN, [MODULE]),
        ("fault C_Login * crash", LOGIN, [MODULE, TOKEN, "mechanisms"]),
    ],
)
def test_crash_while_it_is_opened(played: Played, order: str, failed: str, made: list[str]) -> None:
    """A module that crashes before the login ends the checks: the others are reported as not tried, with the reason."""
    played.order(order)
    report = check(played.token)
    assert outcomes(report, Outcome.WORKS, Outcome.LIMITED) == made
    assert outcomes(report, Outcome.FAILED) == [failed]
    assert outcomes(report, Outcome.UNTRIED) == NAMES[len(made) + 1 :]
    untried = {each.detail for each in report if each.outcome is Outcome.UNTRIED}
    assert untried == {f"it needs {failed!r}, which did not succeed"}
    assert not report.passed


def test_crash_at_the_end(played: Played) -> None:
    """A module that crashes in C_Finalize is limited; nothing else is lost."""
    played.order("fault C_Finalize * crash")
    report = check(played.token)
    assert report.passed
    assert {each.name: each for each in report}[CLOSING].outcome is Outcome.LIMITED


def test_hanging_module(played: Played) -> None:
    """A call that never returns is killed at the time limit of a check, and is a finding; the others are run."""
    before = tuple(name for name in NAMES if name not in ("data key pairs", CLEAN_UP, CLOSING))
    job = job_for(played.token.settings(), Secret(PIN), installed=False)
    job = msgspec.structs.replace(job, done=(*before, *SLOW_CHECKS))
    started = time.monotonic()
    run_checks(job)
    limit = round(max(5, 4 * (time.monotonic() - started)))  # four times what all of it takes on this machine now
    played.order("fault C_WrapKey * hang")
    report = run_checks(job, seconds=limit)
    hung, *others = report
    assert (hung.name, hung.outcome) == ("data key pairs", Outcome.FAILED)
    assert hung.detail == f"the process of the module did not answer for {limit} seconds, and was killed"
    assert [(each.name, each.outcome) for each in others] == [(CLEAN_UP, Outcome.WORKS), (CLOSING, Outcome.WORKS)]


def test_return_codes(played: Played) -> None:
    """A refusal is reported with its return code, what it affects and what to do; the other checks are run."""
    played.order("fault C_GenerateKeyPair * return 0x70", "fault C_GetMechanismInfo * return 0x54")
    report = check(played.token)
    assert report.passed
    refused = {each.name: each for each in report}["ECC_NIST_P256"]
    assert (refused.outcome, refused.ckr) == (Outcome.LIMITED, "CKR_MECHANISM_INVALID")
    assert "CKR_MECHANISM_INVALID" in refused.detail
    assert refused.affects == "KeySpec ECC_NIST_P256: CreateKey, Sign, Verify, DeriveSharedSecret"
    assert refused.advice == ADVICE["CKR_MECHANISM_INVALID"]
    assert {each.name: each for each in report}["HMAC_256"].outcome is Outcome.WORKS


def test_missing_mechanism(played: Played) -> None:
    """Without AES-GCM and AES-CBC the token is unfit, and checks that do not need them still work."""
    played.order(*(f"hide {each:#x}" for each in (Mechanism.AES_GCM, Mechanism.AES_CBC, Mechanism.SHA384_HMAC)))
    report = check(played.token)
    checks = {each.name: each for each in report}
    assert checks["mechanisms"].detail == "the token has no AES_GCM or AES_CBC: hsmkms cannot keep keys on it"
    assert checks["AES-CBC with HMAC"].ckr == "CKR_MECHANISM_INVALID"
    assert checks["HMAC_384"].detail == "the token has no CKM_SHA384_HMAC"
    assert checks["HMAC_384"].outcome is Outcome.LIMITED
    assert checks["stored keys"].outcome is Outcome.WORKS
    assert not report.passed


def test_one_session(played: Played) -> None:
    """A token with a single session is unfit, and the report says so."""
    played.order("sessions 1")
    checks = {each.name: each for each in check(played.token)}
    assert checks[SESSIONS].outcome is Outcome.FAILED
    assert checks[SESSIONS].detail.startswith("the token has 1 session")


def test_wrong_pin_is_sent_once(played: Played) -> None:
    """A refused PIN is a finding with its code, is sent once, and is in no text; at the last try none is sent."""
    played.order("pin_tries 3")
    report = check(played.token, pin="wrong horse")
    checks = {each.name: each for each in report}
    assert (checks[LOGIN].outcome, checks[LOGIN].ckr) == (Outcome.FAILED, "CKR_PIN_INCORRECT")
    assert checks[LOGIN].detail == "the token refused the PIN"
    assert "wrong horse" not in json.dumps(msgspec.to_builtins(report))
    assert Path(f"{played.control}.pins").read_text().strip() == "1"
    check(played.token, pin="wrong horse")
    assert {each.name: each for each in check(played.token)}[LOGIN].detail == (
        "one more wrong PIN locks the token, so none is tried"
    )


def test_without_a_pin(token: Token) -> None:
    """Without a PIN module and token are described, and no check is reported as passed."""
    report = check(token, pin=None)
    working = outcomes(report, Outcome.WORKS)
    assert [each for each in working if each != TOKEN] == [MODULE, "mechanisms", CLOSING]
    assert (TOKEN in working) == bool(token.serial)
    assert {each.name: each for each in report}[LOGIN].detail == "no PIN was given"
    assert not report.passed
    assert report.result == "not known: not all checks were made"
    assert report.facts["Token"]["Mechanisms"]


def test_module_that_is_none(token: SoftHsm, tmp_path: Path) -> None:
    """A file that is no module is a finding, not an error."""
    text = tmp_path / "module.so"
    text.write_text("no library")
    report = check(token, module=text)
    assert outcomes(report, Outcome.FAILED) == [MODULE]
    assert "cannot be loaded as a PKCS#11 module" in next(iter(report)).detail
    assert report.facts["Module"]["File"] == "module.so"
    assert report.result == "not usable"
    untried = {each.name: each for each in report}["AES-256 backing key"]
    assert untried.affects.endswith(": no installation can be made on this token")


def test_an_error_of_python_is_a_finding(device: TokenDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any exception of a check is its finding; the next check is run."""

    def broken(*_: object) -> int:
        raise ValueError

    monkeypatch.setattr(needed, "label_bytes", broken)
    steps = {each.names[0]: each for each in STEPS}
    with device.connection.pool.session() as session:
        bench = Bench(device.connection.token, session, lambda: open_session(device.connection.token))
        (finding,) = steps["object labels"].checks(bench)
    assert (finding.outcome, finding.detail) == (
        Outcome.LIMITED,
        "the token's answer could not be understood (ValueError)",
    )


def test_names_of_return_codes() -> None:
    """Every return code with a class in python-pkcs11 has the standard's name; others have their number."""
    assert ckr_name(exceptions.MechanismParamInvalid()) == "CKR_MECHANISM_PARAM_INVALID"
    assert ckr_name(exceptions.SlotIDInvalid()) == "CKR_SLOT_ID_INVALID"
    assert ckr_name(exceptions.TokenNotRecognised()) == "CKR_TOKEN_NOT_RECOGNIZED"
    assert ckr_name(exceptions.GeneralError()) == "CKR_GENERAL_ERROR"
    assert ckr_name(exceptions.PKCS11Error("Unmapped error code 0x80000001")) == "CKR 0x80000001"
    named = {name for name in ADVICE if name.startswith("CKR_")}
    assert named == set(ADVICE)
