"""The PKCS#11 modules on which the device tests are run, and where each comes from."""

from typing import NamedTuple


class Row(NamedTuple):
    """A module. ``driver``: its class in tests/tokens.

    ``debian``: packages that are installed; the first has the version. ``unpacked``: the first is only unpacked.
    ``suite``: the Debian that has the wanted version: it is run in a root folder of its own, or unpacked from there.
    ``built``: Debian has no package, so it is built elsewhere and named by its path; the version that was tried so, and
    what came of it. ``absent``: why it is not run at all.
    """

    name: str
    title: str
    driver: str
    debian: tuple[str, ...] = ()
    unpacked: bool = False
    suite: str = ""
    built: str = ""
    absent: str = ""


_EARLIER = "(an earlier measurement, not this table's)"
P11_KIT = ("p11-kit", "p11-kit-modules", "softhsm2")

MODULES: tuple[Row, ...] = (
    Row("softhsm", "SoftHSM", "softhsm", ("softhsm2",)),
    Row("nss", "NSS softokn", "nss", ("libnss3",)),
    Row(
        "nss-forky",
        "NSS softokn of Debian testing",
        "nss",
        ("libnss3", "libnspr4", "libsqlite3-0"),
        unpacked=True,
        suite="forky",
    ),
    Row(
        "nss-unstable",
        "NSS softokn of Debian unstable",
        "nss",
        ("libnss3", "libnspr4", "libsqlite3-0"),
        unpacked=True,
        suite="unstable",
    ),
    Row("firefox", "NSS softokn of Firefox", "firefox", ("firefox-esr",), unpacked=True),
    Row("p11-kit", "p11-kit remote before SoftHSM", "p11-kit", P11_KIT),
    Row("p11-kit-trixie", "p11-kit remote of Debian 13", "p11-kit", P11_KIT, suite="trixie"),
    Row("opencryptoki", "opencryptoki, software token", "opencryptoki", ("opencryptoki",)),
    Row(
        "opencryptoki-trixie",
        "opencryptoki of Debian 13, software token",
        "opencryptoki",
        ("opencryptoki",),
        suite="trixie",
    ),
    Row(
        "opencryptoki-forky",
        "opencryptoki of Debian testing, software token",
        "opencryptoki",
        ("opencryptoki",),
        suite="forky",
    ),
    Row("tpm2", "tpm2-pkcs11 on swtpm", "tpm2", ("libtpm2-pkcs11-1", "swtpm", "libtss2-tcti-swtpm0")),
    Row("softhsm-main", "SoftHSM, main branch", "softhsm", built=f"main branch: 38 of 40 steps {_EARLIER}"),
    Row("kryoptic", "kryoptic", "kryoptic", built=f"1.5.2: 36 of 40 steps {_EARLIER}"),
    Row("freehsm", "freehsm-c of Debian testing", "freehsm", ("freehsm-c",), suite="forky"),
)
