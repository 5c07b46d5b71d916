"""Set up an installation on a token, try every capability, and print a JSON line for each: name, outcome, sentence.

A program of its own: ``devices.start(TRY, token)``. A module that crashes ends it, and the last line names where.
"""

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Final

from devices import arguments, report
from tokens.capabilities import CAPABILITIES, Bench, Clock
from tokens.driver import Token

from hsmkms.config import settings as config
from hsmkms.config import template
from hsmkms.config.settings import PinSettings, Settings, TokenSettings
from hsmkms.errors import HsmKmsError, TokenUnfitError, UnsupportedOperationException
from hsmkms.kms import Kms
from hsmkms.wiring import core as wiring

INIT: Final = "init"
WORKS: Final = "works"
REFUSED: Final = "refused"
FAILS: Final = "fails"
TRIED: Final = "tried"
"""Printed before each: what a crash was in."""
MODULE: Final = "module"
"""The module's description of itself."""
SECONDS: Final = 300


def configuration(token: Token, folder: Path) -> Path:
    """Write the configuration of an installation on the token, as init would; return its path."""
    folder.mkdir(mode=0o700)
    pin = folder / "pin"
    pin.touch(mode=0o600)
    pin.write_text(f"{token.pin}\n")
    chosen = TokenSettings(
        module=token.module,
        label=token.label,
        serial=token.serial or None,
        pin=PinSettings(file=Path("pin")),
        environment=token.environment,
        init_reserved=token.reserved,
    )
    file = folder / "hsmkms.toml"
    settings = Settings(account_id="111122223333", regions=("us-east-1",), default_region="us-east-1", token=chosen)
    file.write_text(template.init_text(settings))
    file.chmod(0o600)
    return file


def init(file: Path) -> bool:
    """Run ``hsmkms init`` on the configuration; return True if there is an installation now."""
    report({"capability": INIT, "outcome": TRIED, "sentence": ""})
    command = [sys.executable, "-m", "hsmkms", "init", "--data-dir", str(file.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, env=os.environ)
    written = done.stderr.strip()
    sentence = written.partition("hsmkms: ")[2] or written  # a module may write before it
    if done.returncode < 0:
        sentence = f"init was ended by signal {-done.returncode}"
    outcome = WORKS if done.returncode == 0 else FAILS
    report({"capability": INIT, "outcome": outcome, "sentence": sentence if outcome == FAILS else ""})
    return outcome == WORKS


def attempt(name: str, bench: Bench) -> None:
    """Try one capability."""
    report({"capability": name, "outcome": TRIED, "sentence": ""})
    outcome, sentence = WORKS, ""
    try:
        CAPABILITIES[name](bench)
    except (UnsupportedOperationException, TokenUnfitError) as exc:
        outcome, sentence = REFUSED, str(exc)
    except HsmKmsError as exc:
        outcome, sentence = FAILS, f"{type(exc).__name__}: {exc}"
        traceback.print_exc()
    except Exception as exc:  # noqa: BLE001 - whatever it is belongs into the table
        outcome, sentence = FAILS, f"{type(exc).__name__}: {exc}"
        traceback.print_exc()
    report({"capability": name, "outcome": outcome, "sentence": sentence})


def main() -> None:
    """Try all capabilities, one after the other."""
    token, _ = arguments()
    file = configuration(token, token.folder / "installation")
    if not init(file):
        return
    clock = Clock()
    with Kms(wiring.core_of(config.load(file), clock)) as kms:
        report({"capability": "", "outcome": MODULE, "sentence": kms.operator.token_info().profile.library})
        for name in CAPABILITIES:
            attempt(name, Bench(kms, clock))


if __name__ == "__main__":
    main()
