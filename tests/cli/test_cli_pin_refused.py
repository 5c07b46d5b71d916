"""A PIN that a token has refused: how often it is sent, counted by the spy over whole processes."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import shims
import spylog
from cli_site import Site, at_terminal

LABEL = "house token"
PIN = "correct horse"
WRONG = "wrong horse"
REFUSED = "CKR_PIN_INCORRECT"


class Watched:
    """A site whose module is the spy: each command writes a log of its own."""

    def __init__(self, site: Site, spy: Path, module: str, **environment: str) -> None:
        self.site = site
        self.spy = spy
        self._numbers = itertools.count()
        self._environment = {"PKCS11SPY": module, **environment}

    def run(self, *arguments: object, **environment: str) -> tuple[str, list[str]]:
        """Run a command; what it said, and the answers to the PINs that it sent."""
        log = self.site.folder / f"{next(self._numbers)}.log"
        result = self.site.run(*arguments, **(self._environment | environment), PKCS11SPY_OUTPUT=str(log))
        calls = spylog.named(spylog.read(log), "C_Login", "C_SetPIN")
        return result.stdout + result.stderr, [call.returned for call in calls]


@pytest.fixture
def watched(site: Site, spy_path: Path) -> Watched:
    """An installation behind the spy."""
    text = site.config.read_text()
    (module,) = (line.split('"')[1] for line in text.splitlines() if line.startswith("module ="))
    site.config.write_text(text.replace(module, str(spy_path)))
    return Watched(site, spy_path, module)


@pytest.fixture
def half(bare: Site, spy_path: Path) -> Watched:
    """A token behind the spy, and no installation yet."""
    parsed = json.loads(bare.program("make_token", bare.folder / "elsewhere", LABEL, PIN))
    return Watched(bare, spy_path, parsed.pop("module"), **parsed)


def write(file: Path, text: str) -> Path:
    """A private file."""
    file.write_text(f"{text}\n")
    file.chmod(0o600)
    return file


def init(half: Watched, pin: Path, *more: object) -> tuple[str, list[str]]:
    """Run init with this PIN file."""
    named = ("--module", half.spy, "--token-label", LABEL, "--pin-file", pin)
    return half.run("init", "--data-dir", "data", *named, *more)


def test_init_takes_the_second_options(half: Watched) -> None:
    """After a refused PIN a second init takes account, region and PIN file as given now, and sends nothing again."""
    wrong, right = write(half.site.folder / "wrong.pin", WRONG), write(half.site.folder / "right.pin", PIN)
    result, sent = init(half, wrong, "--account-id", "111111111111", "--region", "eu-west-1")
    assert ("refused the PIN" in result, sent) == (True, [REFUSED])
    result, sent = init(half, right, "--account-id", "222222222222", "--region", "eu-central-1")
    assert (" --retry-pin" in result, sent) == (True, [])
    _, sent = half.run("doctor", "--retry-pin", "--yes")
    assert REFUSED not in sent
    result, sent = init(half, right)
    made = json.loads(result)
    assert (made["Account"], made["Regions"], made["PinFile"]) == ("222222222222", ["eu-central-1"], str(right))
    assert REFUSED not in sent


def test_init_with_the_same_file(half: Watched) -> None:
    """The advised retry sends nothing while the PIN file is as it was; corrected in its place, it is sent on a word."""
    pin = write(half.site.folder / "token.pin", WRONG)
    assert init(half, pin)[1] == [REFUSED]
    result, sent = half.run("doctor", "--retry-pin")
    assert (f"the PIN file {pin} has not changed since the token '{LABEL}'" in result, sent) == (True, [])
    write(pin, PIN)
    assert init(half, pin)[1] == []
    assert half.run("doctor", "--retry-pin")[1] == []
    assert REFUSED not in half.run("doctor", "--retry-pin", "--yes")[1]
    assert REFUSED not in init(half, pin)[1]


def test_another_token_at_the_second_init(half: Watched) -> None:
    """Until an installation exists another token may be named; then its serial is asked for again."""
    other = json.loads(half.site.program("make_token", half.site.folder / "another", "other token", PIN))
    assert init(half, write(half.site.folder / "wrong.pin", WRONG))[1] == [REFUSED]
    right = write(half.site.folder / "right.pin", PIN)
    named = ("--data-dir", "data", "--token-label", "other token", "--pin-file", right)
    result, sent = half.run("init", *named, SOFTHSM2_CONF=other["SOFTHSM2_CONF"])
    assert json.loads(result)["TokenLabel"] == "other token"
    assert sent == ["CKR_OK", "CKR_OK"], "init, and the process that tries what the token must refuse to unwrap"


COMMANDS: list[list[object]] = [
    ["list-keys"],
    ["token-check"],
    ["doctor"],
    ["doctor", "--retry-pin"],
    ["change-pin", "--generate"],
    ["serve", "--port", "0", "--workers", "1"],
    ["backup", "--to", "somewhere"],
]


@pytest.mark.parametrize("source", ["file", "environment", "command"])
def test_no_command_sends_it_again(watched: Watched, source: str) -> None:
    """For any source of the PIN and any command: one refusal, until the operator confirms the PIN."""
    site = watched.site
    pin = write(site.data / "pin", WRONG)
    lines = {
        "file": 'file = "pin"',
        "environment": 'environment = "HSMKMS_PIN"',
        "command": f'command = ["cat", {json.dumps(str(pin))}]',
    }
    site.config.write_text(site.config.read_text().replace(lines["file"], lines[source]))
    given = {"HSMKMS_PIN": WRONG}
    assert watched.run("list-keys", **given)[1] == [REFUSED]
    for command in COMMANDS:
        result, sent = watched.run(*command, **given)
        assert sent == [], (command, result)
    result, sent = watched.run("doctor", "--retry-pin", "--yes", **given)
    assert sent == [REFUSED], result
    assert watched.run("doctor", "--retry-pin", **given)[1] == []


def name_it(name: str) -> Callable[[Watched], None]:
    """Let the configuration name the PIN file in another way."""

    def do(watched: Watched) -> None:
        watched.site.config.write_text(watched.site.config.read_text().replace('file = "pin"', f'file = "{name}"'))

    return do


def rename_it(watched: Watched) -> None:
    """Keep the PIN under another name, which the configuration names."""
    (watched.site.data / "pin").rename(watched.site.data / "moved")
    name_it("moved")(watched)


def link_it(watched: Watched) -> None:
    """Let the configuration name a symbolic link to the PIN file."""
    (watched.site.data / "link").symlink_to("pin")
    name_it("link")(watched)


SAME_PIN: dict[str, Callable[[Watched], object]] = {
    "chmod": lambda watched: (watched.site.data / "pin").chmod(0o400),
    "touch": lambda watched: os.utime(watched.site.data / "pin"),
    "written anew": lambda watched: write(watched.site.data / "pin", WRONG),
    "another line end": lambda watched: write(watched.site.data / "pin", f"{WRONG}\r"),
    "another path": name_it("../data/pin"),
    "link": link_it,
    "another name": rename_it,
}


@pytest.mark.parametrize("change", SAME_PIN.values(), ids=SAME_PIN.keys())
def test_retry_of_the_same_pin(watched: Watched, change: Callable[[Watched], object]) -> None:
    """Whatever is done to the PIN file but to correct it: no retry sends its PIN again without a word."""
    write(watched.site.data / "pin", WRONG)
    assert watched.run("list-keys")[1] == [REFUSED]
    change(watched)
    for _ in range(2):
        result, sent = watched.run("doctor", "--retry-pin")
        assert ("hsmkms doctor --retry-pin --yes" in result or "has not changed" in result, sent) == (True, [])


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_question_about_a_corrected_file(site: Site, answer: str, status: int) -> None:
    """At a terminal the operator who has corrected the PIN file answers one question, and the PIN is sent on a yes."""
    right = (site.data / "pin").read_text()
    write(site.data / "pin", WRONG)
    site.run("list-keys")
    (site.data / "pin").write_text(right)
    shown, ended = at_terminal(site, "doctor", "--retry-pin", answer=answer)
    assert shown.count("[y/N]") == 1
    assert f"Is the PIN that comes from the PIN file {site.data / 'pin'} another one, and right" in shown
    assert ended == status
    assert (site.data / "pin-refused.json").exists() == (answer == "n")


def test_insisting_is_for_a_retry(site: Site) -> None:
    """--yes goes with --retry-pin, and --token with both."""
    for wrong in (["--yes"], ["--retry-pin", "--token", "hsmkms"], ["--token", "hsmkms"]):
        assert site.run("doctor", *wrong).status == 2
    query = ("--query", "Checks[:4].Outcome", "--output", "text")
    result = site.run("doctor", "--retry-pin", "--yes", "--token", "hsmkms", *query)
    assert (result.status, result.stdout) == (0, "ok\tok\tok\tok\n")


def test_corrected_variable(watched: Watched) -> None:
    """A variable that has been corrected is sent once the operator says so, for this value."""
    site = watched.site
    right = (site.data / "pin").read_text().strip()
    site.config.write_text(site.config.read_text().replace('file = "pin"', 'environment = "HSMKMS_PIN"'))
    assert watched.run("list-keys", HSMKMS_PIN=WRONG)[1] == [REFUSED]
    result, sent = watched.run("doctor", "--retry-pin", HSMKMS_PIN=right)
    assert ("hsmkms doctor --retry-pin --yes" in result, sent) == (True, [])
    result, sent = watched.run("doctor", "--retry-pin", "--yes", HSMKMS_PIN=right)
    assert (REFUSED in sent, "CKR_OK" in sent) == (False, True)
    assert watched.run("list-keys", HSMKMS_PIN=right)[1] == ["CKR_OK"]


# -- an interrupted change ------------------------------------------------------------------------------------------


def test_interrupted_change_with_two_wrong_files(watched: Watched) -> None:
    """If neither file has the right PIN each is sent once, however often change-pin is run; a third one is taken."""
    right = (watched.site.data / "pin").read_text().strip()
    pin, draft = write(watched.site.data / "pin", WRONG), write(watched.site.data / "pin.new", "other horse")
    assert watched.run("change-pin")[1] == [REFUSED, REFUSED]
    for _ in range(2):
        result, sent = watched.run("change-pin")
        assert ("neither is sent again" in result, sent) == (True, [])
    write(pin, right)
    draft.unlink()
    assert REFUSED not in watched.run("doctor", "--retry-pin", "--yes")[1]
    assert watched.run("list-keys")[1] == ["CKR_OK"]


def test_interrupted_change_with_the_same_wrong_pin(watched: Watched) -> None:
    """A wrong PIN that lies in both files is sent once, by one run of change-pin and by those that follow."""
    write(watched.site.data / "pin", WRONG)
    write(watched.site.data / "pin.new", WRONG)
    assert watched.run("change-pin")[1] == [REFUSED]
    assert watched.run("change-pin")[1] == []


@pytest.mark.parametrize("refused", ["pin", "pin.new"])
def test_interrupted_change_with_a_known_pin(watched: Watched, refused: str) -> None:
    """What was refused from one of the files is not sent from the other one, nor once its mode has been changed."""
    pin = watched.site.data / "pin"
    write(pin, WRONG)
    assert watched.run("list-keys")[1] == [REFUSED]
    pin.chmod(0o400)
    if refused == "pin.new":
        mark = watched.site.data / "pin-refused.json"
        mark.write_text(mark.read_text().replace(f"{pin}", f"{pin}.new"))
    write(watched.site.data / "pin.new", WRONG)
    result, sent = watched.run("change-pin")
    assert ("neither is sent again" in result, sent) == (True, [])


def test_interrupted_change_after_a_refusal(watched: Watched) -> None:
    """What a server has had refused after an interrupted change is not sent again to find out which PIN holds."""
    pin = watched.site.data / "pin"
    write(watched.site.data / "pin.new", pin.read_text().strip())
    write(pin, WRONG)
    assert watched.run("list-keys")[1] == [REFUSED]
    result, sent = watched.run("change-pin")
    assert ("the new PIN holds" in result, sent) == (True, ["CKR_OK"])
    assert watched.run("list-keys")[1] == ["CKR_OK"]


def test_interrupted_change_spends_no_last_try(site: Site, shim_path: Path) -> None:
    """If the second of the two PINs would be the last try, it is not sent, and the sentence says what to do."""
    text = site.config.read_text()
    (module,) = (line.split('"')[1] for line in text.splitlines() if line.startswith("module ="))
    site.config.write_text(text.replace(module, str(shim_path)))
    control = site.folder / "shim.control"
    shims.order(control, "pin_tries 2")
    environment = shims.variables(Path(module), control)
    pin = site.data / "pin"
    right = pin.read_text().strip()
    draft = write(site.data / "pin.new", right)
    write(pin, WRONG)
    for _ in range(2):
        message = site.run("change-pin", **environment).error
        assert "one more wrong PIN locks token 'hsmkms', so none is tried" in message
        assert message.endswith(f"Of {pin} and {draft} one has the right PIN: it must be in {pin}")
    assert Path(f"{control}.pins").read_text() == "1\n"
    draft.replace(pin)
    assert site.run("doctor", "--retry-pin", "--yes", **environment).status == 0


def test_change_of_a_pin_that_is_refused(site: Site) -> None:
    """A present PIN that C_SetPIN refuses leaves the mark as well: no command sends it again."""
    output = site.program("change_pin_refused")
    assert output.startswith("the token refused the present PIN (PinIncorrect), so it was not changed")
    assert (site.data / "pin-refused.json").exists()
    assert not (site.data / "pin.new").exists()
    assert "hsmkms doctor --retry-pin" in site.run("change-pin", "--generate").error
