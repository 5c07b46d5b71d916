"""Sign texts by the key for reports: each in a file that is named after its length. Arguments: FOLDER TEXT..."""

import sys
from pathlib import Path

from hsmkms import Kms

with Kms.open() as kms:
    reports = kms.operator.reports
    for text in sys.argv[2:]:
        file = Path(sys.argv[1], str(len(text)))
        file.write_text(text)
        file.with_name(f"{file.name}.sig").write_bytes(reports.sign(text.encode(), reports.key()))
