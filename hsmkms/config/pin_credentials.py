"""Name the systemd credentials that may stand for the PIN file of a token (LoadCredential=NAME:FILE).

A credential is named by its token: ``pin-LABEL`` or ``pin-SERIAL``. The file's own name is accepted as well, which is
enough for an installation with one token. A name that would fit the files of two tokens is used for neither.
"""

import re
from typing import Final

from hsmkms.config.settings import Settings, TokenSettings, parse_uri

_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")
"""Characters that need quoting in a unit file, or are not allowed in a credential's name (systemd.exec(5))."""


def credential_names(settings: Settings, token: TokenSettings) -> tuple[str, ...]:
    """Return the credential names of one token's PIN file, the most specific first; none without a PIN file."""
    others = {name for each in settings.tokens if each.pin.file != token.pin.file for name in _names(each)}
    return tuple(name for name in _names(token) if name not in others)


def _names(token: TokenSettings) -> list[str]:
    if token.pin.file is None:
        return []
    uri = parse_uri(token.uri) if token.uri else None
    tokens = (uri.label, uri.serial) if uri is not None else (token.label, *token.serials)
    return [*(f"pin-{_UNFIT.sub('-', each)}" for each in tokens if each), token.pin.file.name]
