"""Parse texts with the aws CLI's own parser: from JSON strings, one on a line, to their members as JSON.

A process of its own, since importing awscli puts its older botocore in the place of botocore.
"""

import json
import sys

from awscli.shorthand import ShorthandParser

for line in sys.stdin:
    sys.stdout.write(json.dumps(ShorthandParser().parse(json.loads(line))) + "\n")
    sys.stdout.flush()
