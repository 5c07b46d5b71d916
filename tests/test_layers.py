"""Who may import whom: the layers of the package, as a table that is checked against the source."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hsmkms"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450

BELOW_CLI = {
    "errors",
    "file_lock",
    "token_bucket",
    "atomic_write",
    "process",
    "call_stats",
    "uuids",
    "ownership",
    "secret",
    "config",
    "model",
    "rules",
    "store",
    "hsm",
    "service",
}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "file_lock": set(),
    "garbage": set(),
    "token_bucket": set(),
    "atomic_write": {"file_lock"},
    "process": {"errors", "file_lock"},
    "call_stats": set(),
    "uuids": set(),
    "secret": set(),
    "hardening": set(),
    "ownership": {"errors"},
    "key_wrapping": {"errors", "model"},
    "config": {"atomic_write", "errors", "model", "ownership", "secret", "config"},
    "model": {"errors", "model", "uuids"},
    "rules": {"errors", "model", "rules"},
    "store": {"atomic_write", "errors", "file_lock", "model", "ownership", "process", "store"},
    "hsm": {
        "atomic_write",
        "errors",
        "hardening",
        "model",
        "process",
        "secret",
        "call_stats",
        "key_wrapping",
        "hsm",
    },
    "service": {
        "atomic_write",
        "errors",
        "file_lock",
        "model",
        "process",
        "call_stats",
        "uuids",
        "token_bucket",
        "rules",
        "store",
        "hsm",
        "service",
    },
    "wiring": BELOW_CLI | {"wiring"},
    "kms_permissions": {"model", "service"},
    "kms": {"errors", "model", "service", "wiring", "kms_permissions"},
    "__init__": {"kms"},
    "server": {
        "atomic_write",
        "errors",
        "file_lock",
        "garbage",
        "model",
        "call_stats",
        "uuids",
        "token_bucket",
        "config",
        "service",
        "wiring",
        "kms",
        "server",
    },
    "cli": {
        "atomic_write",
        "errors",
        "garbage",
        "hardening",
        "model",
        "ownership",
        "config",
        "service",
        "wiring",
        "kms",
        "key_wrapping",
        "server",
        "__init__",
        "cli",
    },
    "testing": set(),
    "__main__": {"cli"},
}
"""A layer, and the layers that it may import. ``__init__`` is the package itself, which offers ``Kms``."""

EXCEPTIONS = {
    ("hardening.py", "ctypes"),
    ("server/process/memory.py", "ctypes"),
    ("store/sqlite/wal_index.py", "ctypes"),
}
"""prctl, malloc_trim and memory that SQLite has mapped are in ctypes alone."""

FLOORS: tuple[tuple[str, ...], ...] = (
    ("call_stats", "errors", "file_lock", "garbage", "hardening", "secret", "testing", "token_bucket", "uuids"),
    ("atomic_write", "model", "ownership", "process"),
    ("config", "key_wrapping"),
    ("rules",),
    ("rules/audit", "rules/iam"),
    ("store",),
    ("hsm/allowed_acts", "hsm/return_codes", "hsm/serials"),
    ("hsm/ckr_names",),
    ("hsm/calls", "hsm/faults"),
    ("hsm/objects",),
    ("hsm/crypto",),
    ("hsm/imports", "hsm/probing"),
    ("hsm/checks",),
    ("hsm/token_check",),
    ("hsm/session",),
    ("hsm/check_process", "hsm/refusal_trial"),
    ("hsm/ports",),
    ("hsm/pair_trials",),
    ("hsm/ciphers", "hsm/import_profiles", "hsm/keypairs", "hsm/own_objects"),
    ("hsm/key_objects",),
    ("hsm/imported",),
    ("hsm/device", "hsm/unavailable"),
    ("service/runtime",),
    ("service/keys",),
    ("service/grant_tokens",),
    ("service/pipeline",),
    ("service/operations",),
    ("service/audit",),
    ("service/backup",),
    ("service/operator",),
    ("wiring",),
    ("kms_permissions",),
    ("kms",),
    ("__init__",),
    ("server/heartbeat", "server/latency_gate", "server/messages"),
    ("server/protocol",),
    ("server/audit_gate", "server/aws", "server/monitoring", "server/process"),
    ("server/protocols", "server/turns"),
    ("server/strict_turns", "server/unavailable_app", "server/worker_state"),
    ("server/app",),
    ("server/server",),
    ("server/dev",),
    ("cli/coercion", "cli/completion", "cli/csv_cells", "cli/errors", "cli/help_layout", "cli/moments", "cli/tables"),
    ("cli/output",),
    ("cli/options",),
    ("cli/files", "cli/reports"),
    ("cli/api",),
    ("cli/arguments", "cli/commands"),
    ("cli/main",),
    ("__main__",),
)
"""Every module or folder, from the ground to the roof: each imports what stands below it, nothing beside or above it.

Within a folder modules import one another as they like, but in no circle. A protocol is a folder beside
``server/process``: neither knows the other.
"""

OWNERS = {
    "pkcs11": "hsm",
    "cffi": "hsm",
    "ctypes": "hsm",
    "sqlalchemy": "store",
    "alembic": "store",
    "sqlite3": "store",
    "psycopg": "store",
    "typer": "cli",
    "rich": "cli",
    "jmespath": "cli",
    "httptools": "server",
    "uvloop": "server",
    "prometheus_client": "server",
    "pyrage": "service",
}
"""A foreign package, and the one layer that may import it."""

PURE = {
    "base64",
    "collections",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "msgspec",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
}
"""All that rules may import from outside: none of it does I/O, draws random numbers or (but for CLOCKS) tells time."""

CLOCKS = {"now", "utcnow", "today"}
IMPURE_CALLS = {"open", "print", "input", "__import__", "exec", "eval"}


def layer_of(module: Path) -> str:
    """The layer of a module: its top folder, or its own name."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names of all modules that a source imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            # `from hsmkms.config import settings as config` imports a module, `from hsmkms import Kms` a name of the
            # package itself.
            names = [alias.name for alias in node.names] if node.module == "hsmkms" else []
            yield from (f"hsmkms.{name}" for name in names)
            if not names:
                yield str(node.module)


def layer_imports(tree: ast.AST) -> Iterator[str]:
    """The layers of this package that a source imports."""
    for name in imports(tree):
        first, _, rest = name.partition(".")
        if first == "hsmkms":
            layer = rest.partition(".")[0]
            yield layer if layer in ALLOWED else "__init__"


def foreign_imports(tree: ast.AST) -> Iterator[str]:
    """The top-level names of other packages that a source imports."""
    yield from (name.partition(".")[0] for name in imports(tree) if name.partition(".")[0] != "hsmkms")


def breaches(module: Path, source: str) -> list[str]:
    """Every import, and in rules every call, that a module must not have."""
    tree = ast.parse(source)
    layer, name = layer_of(module), str(module.relative_to(PACKAGE))
    found = [
        f"{name} imports {other}"
        for other in layer_imports(tree)
        if other not in ALLOWED[layer] and (name, other) not in EXCEPTIONS
    ]
    found += [
        f"{name} imports {package}, which belongs to {OWNERS[package]}"
        for package in foreign_imports(tree)
        if OWNERS.get(package, layer) != layer and (name, package) not in EXCEPTIONS
    ]
    return found + [f"{name} {reason}" for reason in impurities(tree)] if layer == "rules" else found


def impurities(tree: ast.AST) -> Iterator[str]:
    """What a pure module must not do: import anything that could do I/O, read a clock, print."""
    yield from (f"imports {package}, which may be impure" for package in foreign_imports(tree) if package not in PURE)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            yield f"reads a clock in line {node.lineno}"
        elif isinstance(node, ast.Name) and node.id in IMPURE_CALLS:
            yield f"uses {node.id} in line {node.lineno}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(module: Path) -> None:
    """Every import of a module is one that the table allows."""
    assert layer_of(module) in ALLOWED, "a new layer: give it a row in ALLOWED"
    assert breaches(module, module.read_text()) == []


def name_of(module: Path) -> str:
    """The name by which a module is imported, without the package's: ``hsm/session/pool``."""
    name = str(module.relative_to(PACKAGE).with_suffix(""))
    return name.removesuffix("/__init__") if name != "__init__" else name


NAMES = {name_of(module): module for module in MODULES}
FLOOR_OF = {place: number for number, places in enumerate(FLOORS) for place in places}


def place_of(name: str) -> str | None:
    """Where a module stands: its own place, or that of the innermost folder that has one."""
    parts = name.split("/")
    places = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((each for each in places if each in FLOOR_OF), None)


def modules_imported(tree: ast.AST) -> Iterator[str]:
    """The modules of this package that a source imports, for types alone and within functions as well."""
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            within = (f"{node.module}.{alias.name}" for alias in node.names)
            found = [each if path_of(each) in NAMES else str(node.module) for each in within]
        yield from (path_of(each) for each in found if path_of(each) in NAMES)


def path_of(dotted: str) -> str:
    """``hsm/device`` for ``hsmkms.hsm.device``; empty for what is not of this package."""
    package, *parts = dotted.split(".")
    return ("/".join(parts) or "__init__") if package == "hsmkms" else ""


def upward(name: str, source: str) -> list[str]:
    """Every import of a module of what does not stand below it, nor in its own place."""
    here = place_of(name)
    assert here is not None, "it stands nowhere: give it a place in FLOORS"
    found = []
    for other in modules_imported(ast.parse(source)):
        there = place_of(other)
        if there is not None and there != here and FLOOR_OF[there] >= FLOOR_OF[here]:
            found.append(f"{name} imports {other}, which does not stand below it")
    return found


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules of which each imports the next, and the last one the first; empty if there is no such circle."""
    graph = {name: set(modules_imported(ast.parse(source))) - {name} for name, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        found: list[str] = exc.args[1]
        return found
    return []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_upward_import(name: str) -> None:
    """A module imports only what stands below it, and what stands in its own folder."""
    if NAMES[name].name != "__init__.py" or name == "__init__":
        assert upward(name, NAMES[name].read_text()) == []
    else:
        assert list(modules_imported(ast.parse(NAMES[name].read_text()))) == [], "a folder offers nothing by itself"


def test_no_import_circle() -> None:
    """No module imports itself by way of others, not even for types alone or when a function is called."""
    assert circle({name: module.read_text() for name, module in NAMES.items()}) == []


def test_every_place_is_taken() -> None:
    """Each place in FLOORS is one of a module or a folder, and none has two."""
    assert len(FLOOR_OF) == sum(map(len, FLOORS))
    assert {place_of(name) for name, module in NAMES.items() if module.name != "__init__.py"} | {"__init__"} == {
        *FLOOR_OF
    }


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hsm/crypto/gcm", "from hsmkms.hsm.device import Device"),
        ("hsm/crypto/gcm", "from hsmkms.hsm import device"),
        ("service/runtime/core", "if TYPE_CHECKING:\n    from hsmkms.service.pipeline import Call"),
        ("service/operations/keys", "def f():\n    from hsmkms.kms import Kms"),
        ("server/process/connection", "from hsmkms.server.aws import protocol"),
        ("server/aws/endpoint", "import hsmkms.server.process.worker"),
        ("wiring/core", "from hsmkms import Kms"),
    ],
)
def test_an_upward_import_is_seen(name: str, source: str) -> None:
    """The check finds an import of what stands beside or above, in each of its forms."""
    assert len(upward(name, source)) == 1


def test_a_circle_is_seen() -> None:
    """The check finds a circle of which one side is there for types alone, and the other one within a function."""
    sources = {
        "hsm/faults": "def f():\n    from hsmkms.hsm import device",
        "hsm/device": "from hsmkms.hsm.objects.objects import find",
        "hsm/objects/objects": "if TYPE_CHECKING:\n    from hsmkms.hsm.faults import translated",
    }
    assert {*circle(sources)} == {*sources}
    assert circle({**sources, "hsm/objects/objects": ""}) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_size(module: Path) -> None:
    """A module stays short enough to be read in one go."""
    assert len(module.read_text().splitlines()) < MAX_LINES


def test_no_dead_rows() -> None:
    """Every row and every exception of the tables stands for something that exists."""
    assert set(ALLOWED) == {layer_of(module) for module in MODULES}
    for name, other in EXCEPTIONS:
        tree = ast.parse((PACKAGE / name).read_text())
        assert other in {*layer_imports(tree), *foreign_imports(tree)}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("store/keys.py", "from hsmkms.hsm.device import Device"),
        ("store/keys.py", "from hsmkms import rules"),
        ("hsm/device.py", "import hsmkms.store.engine"),
        ("hsm/device.py", "def f():\n    from hsmkms.service.runtime.core import Core"),
        ("service/operations/keys.py", "from pkcs11 import lib"),
        ("service/operations/keys.py", "from hsmkms.wiring import core as wiring"),
        ("kms.py", "from hsmkms.cli import main"),
        ("rules/states.py", "import time"),
        ("rules/states.py", "from pathlib import Path"),
        ("rules/states.py", "from os import urandom"),
        ("rules/states.py", "from datetime import datetime\nx = datetime.now()"),
        ("rules/states.py", "open('x')"),
        ("model/ids.py", "from hsmkms.rules import states"),
        ("cli/api/build.py", "from hsmkms.store.engine import Store"),
        ("cli/api/build.py", "if TYPE_CHECKING:\n    from hsmkms.hsm.device import Device"),
        ("cli/api/build.py", "import sqlalchemy.exc"),
        ("config/settings.py", "from hsmkms.rules import states"),
        ("errors.py", "from hsmkms.config import settings as config"),
    ],
)
def test_breach_is_seen(name: str, source: str) -> None:
    """The check finds a breach in each of its forms."""
    assert len(breaches(PACKAGE / name, source)) >= 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rules/states.py", "from datetime import datetime, timedelta\nx = datetime(2026, 1, 1)"),
        ("kms.py", "from hsmkms.wiring.core import open_core"),
        (
            "cli/api/build.py",
            "from hsmkms import Kms; from hsmkms.wiring import core; from hsmkms.config import settings",
        ),
        ("hsm/session/module.py", "import ctypes\nfrom pkcs11._pkcs11 import lib"),
    ],
)
def test_no_false_alarm(name: str, source: str) -> None:
    """The check lets pass what is allowed."""
    assert breaches(PACKAGE / name, source) == []
