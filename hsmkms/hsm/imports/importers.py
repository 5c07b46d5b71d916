"""Choose the importer for each kind of key."""

from pkcs11.types import Session

from hsmkms.hsm.imports.imported_macs import MacImport
from hsmkms.hsm.imports.imported_pairs import PairImport
from hsmkms.hsm.imports.unwrapping import Unwrapping
from hsmkms.hsm.imports.wrapping import ImportProfile
from hsmkms.hsm.objects.attributes import ImportedTemplate
from hsmkms.hsm.objects.backing_keys import ImportedPairTemplate, Kind, template_of
from hsmkms.hsm.objects.mac_mechanisms import MAC_OF

Importer = Unwrapping | PairImport | MacImport
"""Each has ``fingerprints`` and ``keep``."""


def importer(session: Session, unwrapping: Unwrapping, profile: ImportProfile, kind: Kind) -> Importer:
    """Return the importer for keys of that kind, which opens its material through ``unwrapping``."""
    template = template_of(*kind, imported=True)
    if isinstance(template, ImportedPairTemplate):
        return PairImport(session, unwrapping, template)
    if isinstance(template, ImportedTemplate) and kind[0] in MAC_OF:
        return MacImport(session, unwrapping, template, MAC_OF[kind[0]], profile)
    return unwrapping
