"""kryoptic: a software token in Rust with PKCS#11 3.2. It is built outside this repository and named by its path."""

from pathlib import Path

from tokens.driver import LABEL, Driver, Token, initialise
from tokens.measured import MEASURED_ON_SOFTHSM

CONFIGURATION = """\
[[slots]]
slot = 42
dbtype = "sqlite"
dbargs = "{database}"
description = "{label}"
"""


class KryopticDriver(Driver):
    """kryoptic, with a database of its own for each token."""

    name = "kryoptic"
    title = "kryoptic"

    excluded = MEASURED_ON_SOFTHSM

    def make(self, folder: Path, label: str = LABEL) -> Token:
        """Create a configuration with one slot, and a token in it."""
        configuration = folder / "kryoptic.conf"
        configuration.write_text(CONFIGURATION.format(database=folder / "kryoptic.sql", label=label))
        environment = {"KRYOPTIC_CONF": str(configuration)}
        return initialise(Token(module=self.module, folder=folder, label=label, serial="", environment=environment))
