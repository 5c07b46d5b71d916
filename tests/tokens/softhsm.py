"""SoftHSM: the default module of the suite, which no option has to name."""

import os
import subprocess
from pathlib import Path
from typing import Self

from tokens.driver import LABEL, PIN, SO_PIN, Driver, Token

from hsmkms.hsm.session import softhsm


class SoftHsm(Token, frozen=True, kw_only=True):
    """A SoftHSM token in a folder of its own."""

    @classmethod
    def make(cls, folder: Path, label: str = LABEL, configuration: str = "", module: Path | None = None) -> Self:
        """Create a token; ``configuration`` is appended to SoftHSM's configuration file afterwards."""
        module = module or softhsm.find_module()
        made = softhsm.create(module, folder, label=label, user_pin=PIN, so_pin=SO_PIN)
        with Path(made.environment["SOFTHSM2_CONF"]).open("a") as file:
            file.write(configuration)
        return cls(module=module, folder=folder, label=label, serial=made.serial, environment=made.environment)

    def add_token(self, label: str) -> None:
        """Create a second token beside this one, with SoftHSM's own tool."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True, timeout=120, env=os.environ | self.environment)


class SoftHsmDriver(Driver):
    """SoftHSM 2.6.1 of the distribution, or another build by its path."""

    name = "softhsm"
    title = "SoftHSM"
    packages = ("softhsm2",)

    def find(self) -> Path:
        """Find SoftHSM's module where the product looks for it."""
        return softhsm.find_module()

    def make(self, folder: Path, label: str = LABEL, configuration: str = "") -> SoftHsm:
        """Create a token; only SoftHSM has a configuration that hides mechanisms."""
        return SoftHsm.make(folder, label, configuration, self.module)
