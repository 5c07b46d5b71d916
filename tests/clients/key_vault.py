"""A server of MongoDB's protocol that holds key vaults in memory: as much of it as drivers need for data keys.

Client-side encryption keeps its data keys, sealed by the KMS, in a collection. Neither PyPI, npm nor Debian has
MongoDB's server; the driver under test is the real one. OP_MSG alone, as every server since MongoDB 5 speaks.
"""

import socketserver
import struct
import threading
from typing import Any

import bson

OP_MSG = 2013
HEADER = struct.Struct("<iiii")


class KeyVault(socketserver.ThreadingTCPServer):
    """Listens on loopback, on any port, until it is closed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.collections: dict[str, list[dict[str, Any]]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        """What a driver connects to."""
        return f"mongodb://127.0.0.1:{self.server_address[1]}"

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out a command."""
        name = next(iter(command))
        stored = self.collections.setdefault(f"{command.get('$db')}.{command[name]}", [])
        match name:
            case "hello" | "isMaster" | "ismaster":
                versions = {"minWireVersion": 0, "maxWireVersion": 21, "helloOk": True}
                limits = {"maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48 << 20, "maxWriteBatchSize": 100_000}
                return {"ok": 1, "isWritablePrimary": True, "ismaster": True, **versions, **limits}
            case "insert":
                stored += command["documents"]
                return {"ok": 1, "n": len(command["documents"])}
            case "find":
                matching = [each for each in stored if matches(each, command["filter"])]
                return {"ok": 1, "cursor": {"id": 0, "ns": f"{command['$db']}.{command[name]}", "firstBatch": matching}}
            case "endSessions" | "ping":
                return {"ok": 1}
        return {"ok": 0, "code": 59, "codeName": "CommandNotFound", "errmsg": f"no such command: {name}"}


def matches(document: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equality, $in, $or and $and: what is asked of a key vault."""
    return all(fits(document, name, value) for name, value in wanted.items())


def fits(document: dict[str, Any], name: str, value: object) -> bool:
    """One condition of a filter."""
    if name in {"$or", "$and"}:
        assert isinstance(value, list)
        return (any if name == "$or" else all)(matches(document, each) for each in value)
    stored = document.get(name)
    values = stored if isinstance(stored, list) else [stored]
    choices = value["$in"] if isinstance(value, dict) else [value]
    return any(each in choices for each in values)


class Conversation(socketserver.StreamRequestHandler):
    """One connection: a request, its answer, until the driver goes."""

    server: KeyVault

    def handle(self) -> None:
        """Answer each message."""
        while head := self.rfile.read(HEADER.size):
            length, request_id, _, opcode = HEADER.unpack(head)
            body = self.rfile.read(length - HEADER.size)
            assert opcode == OP_MSG, opcode
            answer = b"\0" * 5 + bson.encode(self.server.answer(command_in(body)))
            self.wfile.write(HEADER.pack(HEADER.size + len(answer), 1, request_id, OP_MSG) + answer)


def command_in(body: bytes) -> dict[str, Any]:
    """The command of an OP_MSG, with the documents of its second section put into it."""
    at, command = 4, {}
    while at < len(body):
        kind, size = body[at], struct.unpack_from("<i", body, at + 1)[0]
        if kind == 0:
            command = {**bson.decode(body[at + 1 : at + 1 + size]), **command}
        else:
            section = body[at + 5 : at + 1 + size]
            name, _, documents = section.partition(b"\0")
            command[name.decode()] = bson.decode_all(documents)
        at += 1 + size
    first = next(name for name in command if name != "documents")
    return {first: command.pop(first), **command}
