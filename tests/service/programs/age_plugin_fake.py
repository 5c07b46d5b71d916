"""A plugin of age for a key that protects nothing: it shows the message to the person, and wraps a file's key as it is.

The protocol is C2SP's age-plugin: stanzas on standard input and output, first the client's, then the plugin's.
"""

import base64
import sys

Stanza = tuple[str, list[str], bytes]


def read() -> Stanza:
    """The next stanza."""
    _, kind, *arguments = sys.stdin.readline().split()
    body = ""
    while True:
        line = sys.stdin.readline().strip()
        body += line
        if len(line) < 64:
            return kind, arguments, base64.b64decode(body + "=" * (-len(body) % 4))


def write(kind: str, *arguments: str, body: bytes = b"") -> None:
    """Send a stanza, and wait for its acknowledgement, but for the last one."""
    text = base64.b64encode(body).decode().rstrip("=")
    lines = [text[start : start + 64] for start in range(0, len(text) + 1, 64)]
    sys.stdout.write("\n".join([" ".join(["->", kind, *arguments]), *lines]) + "\n")
    sys.stdout.flush()
    if kind != "done":
        assert read()[0] == "ok"


told: list[Stanza] = []
while not told or told[-1][0] != "done":
    told.append(read())
write("msg", body=b"touch \x1b[2Jthe key")
for kind, arguments, body in told:
    if kind == "wrap-file-key":
        write("recipient-stanza", "0", "fake", body=body)
    elif kind == "recipient-stanza" and arguments[1] == "fake":
        write("file-key", arguments[0], body=body)
write("done")
