"""Marks the store of an installation that a process has open, as a process that was just starting would miss it."""

import sys
from pathlib import Path

from hsmkms.config import settings as config
from hsmkms.store import moving, setup

_, file, url = sys.argv
settings = config.load(Path(file))
moving.mark(settings.data_dir, None, moving.mark_for(settings.data_dir, setup.target_at(url, None)))
