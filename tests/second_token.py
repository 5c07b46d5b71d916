"""A second token for an installation of the tests: in the same SoftHSM, or in one of its own like another vendor's."""

import os
import shutil
import subprocess
from pathlib import Path

from hsmkms import config

LABEL = "new hsm"
PIN = "another horse"
SO_PIN = "another staple"


def add(file: Path, *, own_module: bool = False) -> None:
    """Make a token and name it in the configuration ``file`` beside the one that is there.

    ``own_module``: a copy of SoftHSM's library in a folder of its own, ``other-hsm``, with its own configuration.
    """
    first = config.load(file).token
    assert first.module is not None
    module, environment, folder = first.module, first.environment, file.parent / "other-hsm"
    if own_module:
        module, environment = folder / "libvendor.so", {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
        (folder / "tokens").mkdir(mode=0o700, parents=True)
        shutil.copy(first.module, module)
        text = Path(first.environment["SOFTHSM2_CONF"]).read_text()
        there = [line for line in text.splitlines() if not line.startswith("directories.tokendir")]
        Path(environment["SOFTHSM2_CONF"]).write_text("\n".join([*there, f"directories.tokendir = {folder}/tokens"]))
    make = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", SO_PIN]
    subprocess.run(make, env=os.environ | environment, check=True, capture_output=True)
    pin = file.parent / "new-pin"
    pin.touch(mode=0o600)
    pin.write_text(f"{PIN}\n")
    variables = "\n".join(f'{name} = "{value}"' for name, value in environment.items())
    text = file.read_text().replace("\n[token]\n", "\n[[token]]\n")
    file.write_text(
        f'{text}\n[[token]]\nmodule = "{module}"\nlabel = "{LABEL}"\n'
        f'[token.pin]\nfile = "{pin}"\n[token.environment]\n{variables}\n'
    )
