"""Open the token with the given PIN; tests start several of these processes at once."""

from devices import arguments, report, wait_for_start

from hsmkms.errors import HsmKmsError
from hsmkms.hsm.device import TokenDevice


def main() -> None:
    """Report the error's name, or that the token was opened."""
    token, passed = arguments()
    wait_for_start()
    try:
        TokenDevice.open(token.settings(), lambda: passed["pin"]).close()
    except HsmKmsError as exc:
        report(type(exc).__name__)
    else:
        report("opened")


if __name__ == "__main__":
    main()
