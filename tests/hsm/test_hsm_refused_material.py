"""A module that crashes where it cannot unwrap material: nothing is imported, unless the operator accepts that."""

import os
from pathlib import Path

import pytest
from devices import MakeToken
from msgspec.structs import replace
from shims import Played
from test_hsm_unwrapping import Bench

from hsmkms.errors import RejectedDataError, UnsupportedOperationException
from hsmkms.hsm import refusal_trial
from hsmkms.hsm.checks import refused
from hsmkms.hsm.checks.bench import Bench as CheckBench
from hsmkms.hsm.checks.refused import NAME
from hsmkms.hsm.device import TokenDevice
from hsmkms.hsm.session.login import open_session
from hsmkms.hsm.token_check import ALL, Check, CheckReport, Outcome, run_checks
from hsmkms.model.enums import WrappingAlgorithm

RSA = WrappingAlgorithm.RSAES_OAEP_SHA_1


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have tried in this process is not known."""
    monkeypatch.setattr(refusal_trial, "_known", {})


@pytest.fixture
def played(make_token: MakeToken, shim_path: Path) -> Played:
    """A token whose module crashes where OAEP cannot be unwrapped."""
    return Played.of(make_token(), shim_path, "crash_if_refused")


def recorded(device: TokenDevice) -> list[bytes]:
    """What is recorded for all processes."""
    return [each.read_bytes() for each in device.connection.settings.state_dir.glob("refused-material-*")]


def test_nothing_is_imported(played: Played) -> None:
    """The trial ends a process of its own; here every import is refused, which says why and what to do instead."""
    device = played.token.open()
    try:
        bench = Bench(device)
        good = bench.wrap(RSA, bytes(32))
        for act in (bench.fingerprints, bench.bring):
            with pytest.raises(UnsupportedOperationException, match=r"crashes .* set import\.accept_crashes"):
                act(good)
        assert device.imports.profiles.symmetric().algorithms() == ()
        assert any("crashes or hangs" in each for each in device.imports.quirks())
        assert device.imports.refusal().endswith("set import.accept_crashes")
        assert recorded(device) == [b"crashes\n"]
    finally:
        device.close()


def test_known_to_the_next_process(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial is made once for an installation and a module."""
    device = played.token.open()
    try:
        assert refusal_trial.crashes(device.connection)
        monkeypatch.setattr(refusal_trial, "_known", {})
        monkeypatch.setattr(refusal_trial, "_try", None)
        assert refusal_trial.crashes(device.connection)
    finally:
        device.close()


def test_recorded_before_the_first_import(
    make_token: MakeToken, shim_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As init does it: the result is recorded without an import, and the first import starts no process."""
    device = Played.of(make_token(), shim_path).token.open()
    try:
        device.imports.try_refused_material()
        assert recorded(device) == [b"survives\n"]
        monkeypatch.setattr(refusal_trial, "_known", {})
        monkeypatch.setattr(refusal_trial, "_try", None)
        assert device.imports.wrapping_algorithms()
    finally:
        device.close()


def test_token_check_records(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """What token-check finds replaces an older record, for this process as well; a check that was not made does not."""
    device = played.token.open()
    try:
        others = tuple(each for each in ALL if each != NAME)
        report = run_checks(replace(device.connection.check_job(), done=others))
        monkeypatch.setattr(refusal_trial, "_try", lambda _: False)
        device.imports.try_refused_material()
        assert recorded(device) == [b"survives\n"]
        device.imports.record_checks(report)
        assert recorded(device) == [b"crashes\n"]
        assert device.imports.wrapping_algorithms() == ()
        untried = CheckReport(checks=[Check(name=NAME, outcome=Outcome.UNTRIED, detail="no login")])
        for each in (untried, CheckReport(checks=[])):
            device.imports.record_checks(each)
        assert recorded(device) == [b"crashes\n"]
    finally:
        device.close()


def test_accepted(played: Played) -> None:
    """With import.accept_crashes material is imported, and the quirk says that it was accepted."""
    settings = replace(played.token.settings(), accept_crashes=True)
    device = TokenDevice.open(settings, lambda: played.token.pin)
    try:
        bench = Bench(device)
        assert set(bench.fingerprints(bench.wrap(RSA, bytes(32))))
        assert any("accepted by import.accept_crashes" in each for each in device.imports.quirks())
    finally:
        device.close()


def test_module_that_refuses(make_token: MakeToken, shim_path: Path) -> None:
    """A module that refuses such material and goes on is used, and known as such."""
    device = Played.of(make_token(), shim_path).token.open()
    try:
        bench = Bench(device)
        with pytest.raises(RejectedDataError):
            bench.bring(bench.material(RSA, os.urandom(256)))
        assert recorded(device) == [b"survives\n"]
        assert not refusal_trial.crashes(device.connection)
    finally:
        device.close()


def test_slow_token(make_token: MakeToken, shim_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that has no time for all samples gets some of each algorithm, and does not count as one that hangs."""
    monkeypatch.setattr(refused, "_SECONDS", 0.0)
    device = Played.of(make_token(), shim_path).token.open()
    try:
        token, algorithms = device.connection.token, device.imports.wrapping_algorithms()
        with device.connection.pool.session() as session:
            finding = refused.material(CheckBench(token, session, lambda: open_session(token)))
        assert finding.outcome is Outcome.WORKS
        assert f"as far as {3 * len(algorithms)} samples show" in finding.detail
    finally:
        device.close()


def test_token_check(played: Played) -> None:
    """token-check names the crash as a finding of its own; the checks that unwrap good material succeed."""
    device = played.token.open()
    try:
        others = tuple(each for each in ALL if each not in (NAME, "OAEP SHA-1"))
        report = run_checks(replace(device.connection.check_job(), done=others))
        assert {each.name: each.outcome for each in report} == {"OAEP SHA-1": Outcome.WORKS, NAME: Outcome.FAILED}
    finally:
        device.close()
