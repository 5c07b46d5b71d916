"""``python -m hsmkms``: the command line."""

from hsmkms.cli.main import main

main()
