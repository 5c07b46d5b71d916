"""The modules on which the device suite runs: ``pytest tests/hsm --hsm-driver NAME``."""

from typing import Final

from tokens.driver import Driver
from tokens.freehsm import FreeHsmDriver
from tokens.kryoptic import KryopticDriver
from tokens.nss import FirefoxDriver, NssDriver
from tokens.opencryptoki import OpenCryptokiDriver
from tokens.p11_kit import P11KitDriver
from tokens.softhsm import SoftHsmDriver
from tokens.tpm2 import Tpm2Driver

DRIVERS: Final[dict[str, type[Driver]]] = {
    driver.name: driver
    for driver in (
        SoftHsmDriver,
        NssDriver,
        FirefoxDriver,
        P11KitDriver,
        OpenCryptokiDriver,
        Tpm2Driver,
        KryopticDriver,
        FreeHsmDriver,
    )
}
