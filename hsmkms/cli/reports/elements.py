"""Build HTML and SVG as a tree of elements, so that every text and attribute is escaped where it is written."""

from collections.abc import Iterable, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from hsmkms.cli.tables import printable

Element = ET.Element
Content = Element | str

_DOCTYPE: Final = "<!DOCTYPE html>\n"


def element(tag: str, *content: Content, **attributes: object) -> Element:
    """Return an element with text and elements in it. ``_`` in an attribute's name is ``-``; a last one is dropped."""
    made = ET.Element(tag, {_name(name): printable(str(value)) for name, value in attributes.items()})
    for each in content:
        if isinstance(each, str):
            _append_text(made, printable(each))
        else:
            made.append(each)
    return made


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], **attributes: object) -> Element:
    """Return a table; its head is repeated on each printed page."""
    body = [element("tr", *(element("td", each) for each in row)) for row in rows]
    names = element("tr", *(element("th", each, scope="col") for each in head))
    return element("table", element("thead", names), element("tbody", *body), **attributes)


def pairs(rows: Iterable[tuple[str, Content]]) -> Element:
    """Return a table of names and values."""
    body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
    return element("table", element("tbody", *body), class_="pairs")


def text_of(root: Element) -> bytes:
    """Return the whole document."""
    return (_DOCTYPE + ET.tostring(root, encoding="unicode", method="html") + "\n").encode()


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
