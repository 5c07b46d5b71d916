"""The names under which systemd hands over the PIN file of a token (LoadCredential=NAME:FILE).

A credential is named by its token: ``pin-LABEL`` or ``pin-SERIAL``. The file's own name will do as well, which is all
that an installation with one token needs. No name stands for the files of two tokens: one that would is nobody's.
"""

import re
from typing import Final

from hsmkms.config.settings import Settings, TokenSettings, parse_uri

_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")
"""What would have to be quoted in a unit, or may not be in a credential's name (systemd.exec(5))."""


def credential_names(settings: Settings, token: TokenSettings) -> tuple[str, ...]:
    """The names for the PIN file of one of the tokens, the clearest first; none where its PIN comes from elsewhere."""
    others = {name for each in settings.tokens if each.pin.file != token.pin.file for name in _names(each)}
    return tuple(name for name in _names(token) if name not in others)


def _names(token: TokenSettings) -> list[str]:
    if token.pin.file is None:
        return []
    uri = parse_uri(token.uri) if token.uri else None
    tokens = (uri.label, uri.serial) if uri is not None else (token.label, *token.serials)
    return [*(f"pin-{_UNFIT.sub('-', each)}" for each in tokens if each), token.pin.file.name]
