"""The command that shows the operator's guide, which is part of the package: HSM hosts have no internet."""

import os
import shlex
import subprocess
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Final

import typer

from hsmkms.errors import ValidationException

PANEL: Final = "Guide"

TOPICS: Final = (
    "keys",
    "rotation",
    "import",
    "import-from-hsm",
    "permissions",
    "endpoint",
    "programs",
    "clients",
    "compatibility",
    "hsm",
    "ha-groups",
    "nss",
    "tokens",
    "move-hsm",
    "install",
    "operations",
    "nodes",
    "move-store",
    "bad-days",
    "lost-machine",
    "monitoring",
    "audit",
    "reports",
    "security",
    "numbers",
)
"""The order in which topics are listed; other pages follow."""

MOST_SECTIONS: Final = 8

LESS: Final = "FRX"
"""Options of less if the user has set none: no pager for a short page, colours, and the page stays on the screen."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("guide", rich_help_panel=PANEL)(guide)


def guide(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Topic of the page; default: the list of topics.")
    ] = None,
) -> None:
    """Show the operator's guide: a page by its topic, or the list of topics. It needs no installation.

    At a terminal the page is shown in your pager; in a pipe it is Markdown.

    Example: hsmkms guide import
    """
    pages = _pages()
    if topic is None:
        _print_topics(pages)
    elif topic in pages:
        _show(pages[topic].read_text("utf-8"))
    else:
        found = _sections(pages, topic)
        see = f" Sections about it: {'; '.join(found)}." if found else ""
        raise ValidationException(f"The guide has no topic {topic}.{see} Its topics are: {', '.join(pages)}.")


def _pages() -> dict[str, Traversable]:
    """Return the pages by topic, in the order of ``TOPICS``."""
    folder = resources.files("hsmkms").joinpath("guide")
    pages = {page.name.removesuffix(".md"): page for page in folder.iterdir() if page.name.endswith(".md")}
    ordered = [topic for topic in TOPICS if topic in pages]
    return {topic: pages[topic] for topic in (*ordered, *sorted(pages.keys() - {*TOPICS}))}


def _sections(pages: dict[str, Traversable], word: str) -> list[str]:
    """Return the sections whose headings contain a word, each after its topic; at most ``MOST_SECTIONS``."""
    if not word.strip():
        return []
    found = [
        f"{topic} ({line.lstrip('#').strip()})"
        for topic, page in pages.items()
        for line in page.read_text("utf-8").splitlines()
        if line.startswith(("# ", "## ")) and word.casefold() in line.casefold()
    ]
    return found[:MOST_SECTIONS]


def _print_topics(pages: dict[str, Traversable]) -> None:
    width = max(map(len, pages))
    for topic, page in pages.items():
        print(f"{topic:{width}}  {summary(page.read_text('utf-8'))}")


def summary(text: str) -> str:
    """Return the summary of a page: the line below its title."""
    title, _, rest = text.partition("\n\n")
    return rest.partition("\n")[0] if title.startswith("# ") else title


def _show(text: str) -> None:
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console  # noqa: PLC0415 - only needed at a terminal
    from rich.markdown import Markdown  # noqa: PLC0415

    os.environ.setdefault("LESS", LESS)
    console = Console()
    with console.capture() as rendered:
        console.print(Markdown(text, hyperlinks=False))
    _page(rendered.get())


def _page(text: str) -> None:
    """Show a text in the user's pager. rich uses pydoc's, which overrides the user's LESS from Python 3.13 on."""
    command = shlex.split(os.environ.get("PAGER", "")) or ["less"]
    try:
        subprocess.run(command, input=text.encode(), check=False)
    except OSError:  # there is no such program
        print(text, end="")
