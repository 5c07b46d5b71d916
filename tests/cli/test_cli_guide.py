"""The guide: its list of topics, its pages, for programs and at a terminal; it needs nothing but the package."""

import shlex

import pytest
from cli_site import Site, at_terminal
from pages import GUIDE

from hsmkms.cli.commands.guide import summary


def test_topics(bare: Site) -> None:
    """Without a topic each page has one line: its topic, and what it is for. No configuration is looked for."""
    shown = bare.run("guide", HSMKMS_CONFIG="/nowhere/hsmkms.toml")
    assert (shown.status, shown.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert lines == {page.stem: summary(page.read_text()) for page in GUIDE.glob("*.md")}


def test_topics_are_in_order(bare: Site) -> None:
    """Topics are listed in the order in which they are needed, not in that of their names."""
    topics = [line.split()[0] for line in bare.run("guide").stdout.splitlines()]
    assert topics.index("keys") < topics.index("endpoint") < topics.index("bad-days") < topics.index("numbers")


@pytest.mark.parametrize("topic", ["import", "bad-days"])
def test_page_for_programs(bare: Site, topic: str) -> None:
    """Into a pipe a page is its Markdown, byte for byte."""
    shown = bare.run("guide", topic, HSMKMS_CONFIG="/nowhere/hsmkms.toml")
    assert (shown.status, shown.stderr) == (0, "")
    assert shown.stdout == (GUIDE / f"{topic}.md").read_text()


@pytest.mark.parametrize("topic", ["imports", "../README", ""])
def test_unknown_topic(bare: Site, topic: str) -> None:
    """An unknown topic is an error that names the topics."""
    error = bare.run("guide", topic).error
    assert error.startswith(f"ValidationException: The guide has no topic {topic}.") or not topic
    assert "keys, rotation, import, import-from-hsm, permissions, " in error


def test_word_that_is_no_topic(bare: Site) -> None:
    """A word of a heading leads to its sections; one of none lists the topics alone."""
    assert " Sections about it: keys (Unused keys). Its topics are: keys, " in bare.run("guide", "unused").error
    assert ". Its topics are: keys, " in bare.run("guide", "zebra").error
    assert "Sections" not in bare.run("guide", "zebra").error


def test_page_at_a_terminal(bare: Site) -> None:
    """At a terminal a page is rendered: headings and tables without Markdown's signs, commands as they are printed."""
    shown, status = at_terminal(bare, "guide", "monitoring", columns="100", PAGER="cat")
    assert status == 0
    assert "# Monitoring" not in shown
    assert "```" not in shown
    assert "hsmkms serve --port 8443 2> serve.log &" in shown
    assert "hsmkms_ready" in shown


def test_page_is_paged(bare: Site) -> None:
    """At a terminal a page goes through the reader's pager, and less shows its colours."""
    pager = shlex.join(["sh", "-c", 'echo "paged with LESS=$LESS"; cat > /dev/null'])
    shown, status = at_terminal(bare, "guide", "import", PAGER=pager, TERM="xterm")
    assert (shown.strip(), status) == ("paged with LESS=FRX", 0)
    shown, _ = at_terminal(bare, "guide", "import", PAGER=pager, TERM="xterm", LESS="M")
    assert shown.strip() == "paged with LESS=M"
