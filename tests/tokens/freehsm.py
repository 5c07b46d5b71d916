"""freehsm-c: a software token in C with post-quantum mechanisms, which Debian testing has.

Debian's build does not carry the signature of itself that the module verifies when it starts, so that is switched off.
"""

from pathlib import Path
from typing import ClassVar

from tokens.driver import LABEL, Driver, Reason, Token, set_pin
from tokens.measured import MEASURED_ON_SOFTHSM

FIRST_SLOT = 0


class FreeHsmDriver(Driver):
    """freehsm-c of the distribution, with a folder of tokens and an audit log of its own for each token."""

    name = "freehsm"
    title = "freehsm-c"
    packages = ("freehsm-c",)
    files: ClassVar[tuple[str, ...]] = ("libfreehsm.so",)
    excluded = MEASURED_ON_SOFTHSM
    refused: ClassVar[tuple[Reason, ...]] = (
        Reason(r"a second session of this process does not share the login", "each of its sessions needs a login"),
    )

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Create a folder of tokens, and a token in it."""
        tokens = folder / "tokens"
        tokens.mkdir(mode=0o700)
        environment = {
            "FHSM_TOKENS_DIR": str(tokens),
            "FHSM_AUDIT_LOG": str(folder / "audit.log"),
            "FHSM_INTEGRITY_ALLOW_UNSIGNED": "1",
        }
        token = Token(module=self.module, folder=folder, label=label, serial="", environment=environment)
        loaded = token.load()
        try:
            code = loaded.cryptoki.init_token(FIRST_SLOT, token.so_pin, label)  # which shows no token before
            assert code == 0, f"C_InitToken: CKR {code:#x}"
        finally:
            loaded.release()
        return set_pin(token, token.so_pin)
