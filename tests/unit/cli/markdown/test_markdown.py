"""Markdown on a terminal, rendered while it arrives."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.cli.markdown.blocks import MAX_TABLE_LINES, MarkdownRenderer
from foundry_api.cli.markdown.inline import MAX_SPAN
from foundry_api.cli.markdown.wrapping import get_cells

CODES = re.compile(r"\x1b\[([0-9;]*)m|(.)", re.DOTALL)
MARKUP = ("*", "**", "_", "`", "```", "~~", "~~~", "[", "](", ")", "!", "\\", "|", "|-|", "- ", "-")
TEXTS = ("\n", "\n\n", " ", "   ", "a", "word", "x*y", "# ", "> ", "1. ", "+", "日本", "long word")


def render(*pieces: str, width: int = 80, colour: bool = True) -> str:
    written: list[str] = []
    renderer = MarkdownRenderer(written.append, lambda: width, colour=colour)
    for piece in pieces:
        renderer.feed(piece)
    renderer.finish()
    return "".join(written)


def characters(text: str) -> list[tuple[str, str]]:
    """Return the characters that are visible, with the codes of their styles."""
    found: list[tuple[str, str]] = []
    style = ""
    for code, character in CODES.findall(text):
        if character:
            found.append((character, style))
        else:
            style = "" if code == "0" else code
    return found


def plain(text: str) -> str:
    return "".join(character for character, _ in characters(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**bold** and *italic*", "\x1b[1mbold\x1b[0m and \x1b[3mitalic\x1b[0m\n"),
        ("__bold__ _italic_", "\x1b[1mbold\x1b[0m \x1b[3mitalic\x1b[0m\n"),
        ("***both***", "\x1b[1;3mboth\x1b[0m\n"),
        ("~~gone~~", "\x1b[9mgone\x1b[0m\n"),
        ("`a * b`", "\x1b[36ma * b\x1b[0m\n"),
        ("``a ` b``", "\x1b[36ma ` b\x1b[0m\n"),
        ("[text](https://a.example)", "\x1b[4mtext\x1b[0m\x1b[2m (https://a.example)\x1b[0m\n"),
        ("# Title", "\x1b[1;4mTitle\x1b[0m\n"),
        ("### A *b*", "\x1b[1mA \x1b[0m\x1b[1;3mb\x1b[0m\n"),
        ("- item", "• item\n"),
        ("  * item", "  • item\n"),
        ("12. item", "12. item\n"),
        ("> quote", "\x1b[2m│ \x1b[0mquote\n"),
        ("***", "\x1b[2m" + "─" * 40 + "\x1b[0m\n"),
        ("```py\nx = 1\n```\n", "\x1b[2m```py\x1b[0m\n\x1b[36mx = 1\x1b[0m\n\x1b[2m```\x1b[0m\n"),
    ],
)
def test_markup(text: str, expected: str) -> None:
    assert characters(render(text)) == characters(expected)


@pytest.mark.parametrize(
    "text",
    [
        "snake_case_name and __init__py",
        "2 * 3 * 4 and 2**3",
        "an *unclosed span",
        "an `unclosed span",
        "[x] and [a](b c",
        "#hashtag",
        "-5 degrees",
        "C:\\path",
        "a | b",
        "1.5 and 3)",
        "+1",
        "*" * 300,
        "> " * 1 + "",
        "\\",
    ],
)
def test_text_that_only_looks_like_markup_is_kept(text: str) -> None:
    assert plain(render(text, width=500)).rstrip("\n").replace("│", ">") == text.rstrip("\n")


def test_an_escaped_character_is_literal() -> None:
    assert plain(render(r"\*not italic\* \\ \n")) == "*not italic* \\ \\n\n"


def test_words_wrap_with_the_indent_of_their_block() -> None:
    assert plain(render("- one two three four", width=11)) == "• one two\n  three\n  four\n"
    assert plain(render("> one two three", width=10)) == "│ one two\n│ three\n"
    assert plain(render("one two three", width=7)) == "one two\nthree\n"


def test_long_words_and_wide_characters_are_cut_at_the_width() -> None:
    assert plain(render("abcdefghij", width=4)) == "abcd\nefgh\nij\n"
    assert plain(render("日本語の文", width=5)) == "日本\n語の\n文\n"


@pytest.mark.parametrize("width", [1, 2, 10, 33])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = "- Some *text with `code` and* 日本 in it\n> and averyveryverylongword\n\n# Head line\n"
    indents = {"•", "│"}
    for line in plain(render(text, width=width)).splitlines():
        assert get_cells(line) <= max(width, 4) or not indents & set(line)


def test_code_is_neither_wrapped_nor_parsed() -> None:
    code = "    a = b ** c  # " + "x" * 200
    assert plain(render(f"~~~\n{code}\n```\n~~~\n*after*", width=20)) == (
        f"~~~\n{code}\n```\n~~~\nafter\n"
    )


def test_a_table_is_aligned() -> None:
    text = "| Name | Age |\n|:-----|----:|\n| Ada **L** | 36 |\n| `b\\|c` | |\n\nend"
    assert plain(render(text)) == "Name   Age\n─────  ───\nAda L   36\nb|c\n\nend\n"


@pytest.mark.parametrize("text", ["| no table\n", "| wide | " + "x" * 100 + " |\n|---|---|\n"])
def test_what_is_no_table_or_does_not_fit_is_shown_as_it_is(text: str) -> None:
    assert plain(render(text)) == text


def test_without_colour_code_has_backticks_and_no_colour_is_used() -> None:
    written = render("*a* `b`\n```\nc\n```", colour=False)
    assert "[36m" not in written
    assert plain(written) == "a `b`\n```\nc\n```\n"


@given(st.lists(st.sampled_from(MARKUP + TEXTS), max_size=60), st.integers(1, 90), st.data())
def test_the_pieces_in_which_the_text_arrives_make_no_difference(
    parts: list[str], width: int, data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert characters(render(*pieces, width=width)) == characters(render(text, width=width))


@pytest.mark.parametrize(
    "text", ["**a " * 300, "`a " * 300, "[a" * 300, "***" * 300, "| a |\n" * 900, "a" * 3000]
)
def test_little_text_is_held_back(text: str) -> None:
    written: list[str] = []
    renderer = MarkdownRenderer(lambda part: written.append(plain(part)), lambda: 80)
    held, shown = 0, 0
    for number, character in enumerate(text, 1):
        renderer.feed(character)
        shown += sum(map(len, written))
        written.clear()
        held = max(held, number - shown)
    assert held <= max(2 * MAX_SPAN, MAX_TABLE_LINES * len("| a |\n"))


def test_the_work_is_linear_in_the_length_of_the_text() -> None:
    """Calls are counted, not timed."""
    calls: list[int] = []
    for size in (1, 8):
        written: list[str] = []
        text = "Some **bold [text `with` all* of it_ and ~~more\n" * 50 * size
        renderer = MarkdownRenderer(written.append, lambda: 40)
        for character in text:
            renderer.feed(character)
        renderer.finish()
        calls.append(len(written))
    assert calls[1] == pytest.approx(8 * calls[0], rel=0.02)
