"""The pictures of a report, as SVG: readable in greyscale and on paper, each with a title and a description."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from hsmkms.cli.reports.elements import Element, element

_WIDTH: Final = 720
_ROW: Final = 18
_LEFT: Final = 190
"""Where the bars begin; to the left of it are the names."""
_HEIGHT: Final = 120
_INK: Final = "#333333"
_PALE: Final = "#bbbbbb"
MOST_KEYS: Final = 40
"""Keys in the timeline of rotations."""
_NAME_LENGTH: Final = 26
_TIMELINE_DAYS: Final = 730
_AHEAD_DAYS: Final = 365
_AGES: Final = (
    ("to 30 days", 30),
    ("31 to 90 days", 90),
    ("91 to 180 days", 180),
    ("181 to 365 days", 365),
    ("366 to 730 days", 730),
    ("more than 730 days", None),
)


def ages(keys: Sequence[dict[str, Any]]) -> Element:
    """Return bars: how many keys have current material of which age."""
    counts = dict.fromkeys((name for name, _ in _AGES), 0)
    for key in keys:
        days = key["MaterialAgeDays"]
        if days is not None:
            counts[next(name for name, most in _AGES if most is None or days <= most)] += 1
    most = max(*counts.values(), 1)
    marks = []
    for row, (name, count) in enumerate(counts.items()):
        top = row * _ROW
        length = round((_WIDTH - _LEFT - 60) * count / most)
        marks.append(_label(_LEFT - 8, top + 13, name, "end"))
        marks.append(element("rect", x=_LEFT, y=top + 3, width=length, height=_ROW - 5, fill=_INK))
        marks.append(_label(_LEFT + length + 6, top + 13, str(count)))
    described = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return _picture("ages", "Age of the current key material, number of keys", described, len(_AGES) * _ROW, marks)


def uses(by_day: dict[str, int], known_since: str | None) -> Element:
    """Return a column for each day: how many cryptographic operations succeeded, as far as that is known."""
    days, most = list(by_day.items()), max([*by_day.values(), 1])
    step = (_WIDTH - 60) / max(len(days), 1)
    marks = [_label(46, 12, f"{most:,}", "end"), _label(46, _HEIGHT, "0", "end")]
    marks.append(element("line", x1=52, y1=_HEIGHT, x2=_WIDTH, y2=_HEIGHT, stroke=_INK))
    for number, (day, count) in enumerate(days):
        height = round((_HEIGHT - 4) * count / most, 1)
        left = round(52 + number * step, 1)
        bar = element("rect", element("title", f"{day}: {count}"), x=left, y=_HEIGHT - height, fill=_INK)
        bar.attrib |= {"width": str(round(step * 0.8, 1)), "height": str(height)}
        marks.append(bar)
    if days:
        marks += [_label(52, _HEIGHT + 16, days[0][0]), _label(_WIDTH, _HEIGHT + 16, days[-1][0], "end")]
    described = f"{sum(by_day.values())} operations from {days[0][0]} to {days[-1][0]}; at most {most} on one day"
    title = f"Successful cryptographic operations by day, in the last {len(days)} days"
    if known_since is None or days[0][0] < known_since[:10]:
        title += f" (the audit log has every record since {known_since or 'now'})"
    return _picture("uses", title, described, _HEIGHT + 22, marks)


def rotations(keys: Sequence[dict[str, Any]], made_at: datetime) -> Element:
    """Return a timeline: when each key got key material (filled), and when it rotates next (hollow)."""
    shown = sorted(keys, key=lambda key: key["CreationDate"])[:MOST_KEYS]
    first, last = made_at - timedelta(days=_TIMELINE_DAYS), made_at + timedelta(days=_AHEAD_DAYS)
    bottom = max(len(shown), 1) * _ROW

    def across(moment: datetime) -> float:
        share = (min(max(moment, first), last) - first) / (last - first)
        return round(_LEFT + (_WIDTH - _LEFT - 10) * share, 1)

    now = across(made_at)
    marks = [element("line", x1=now, y1=0, x2=now, y2=bottom, stroke=_INK, stroke_dasharray="3 3")]
    for row, key in enumerate(shown):
        middle = row * _ROW + _ROW / 2
        marks.append(_label(_LEFT - 8, middle + 4, _short_name(key), "end"))
        marks.append(element("line", x1=_LEFT, y1=middle, x2=_WIDTH - 10, y2=middle, stroke=_PALE))
        dates = [material["CreatedAt"] for material in key["Materials"]]
        marks += [_dot(across(datetime.fromisoformat(each)), middle, each, _INK) for each in dates]
        if key["NextRotation"] is not None:
            moment = datetime.fromisoformat(key["NextRotation"])
            marks.append(_dot(across(moment), middle, f"next: {key['NextRotation']}", "#ffffff"))
    marks += [_label(_LEFT, bottom + 14, f"{first:%Y-%m-%d} or before"), _label(now, bottom + 14, "today", "middle")]
    marks.append(_label(_WIDTH, bottom + 14, f"{last:%Y-%m-%d} or later", "end"))
    described = (
        f"A line for each of {len(shown)} of {len(keys)} keys, the oldest first; a filled dot is key material that was "
        "made or imported, a hollow one the next rotation. The dates are in the tables below."
    )
    return _picture("rotations", "Rotations of keys", described, bottom + 20, marks)


def _short_name(key: dict[str, Any]) -> str:
    name: str = key["Aliases"][0].removeprefix("alias/") if key["Aliases"] else key["KeyId"]
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}\u2026"


def _dot(x: float, y: float, title: str, fill: str) -> Element:
    return element("circle", element("title", title), cx=x, cy=y, r=4, fill=fill, stroke=_INK)


def _label(x: float, y: float, text: str, anchor: str = "start") -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor, font_size=11, fill=_INK)


def _picture(name: str, title: str, description: str, height: float, marks: Sequence[Element]) -> Element:
    picture = element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *marks,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        viewBox=f"0 0 {_WIDTH} {height:g}",
        width=_WIDTH,
        height=f"{height:g}",
    )
    return element("figure", element("figcaption", title), picture)
