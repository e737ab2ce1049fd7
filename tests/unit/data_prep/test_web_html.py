"""Text out of HTML: code as it was laid out, and nothing of what is around the content."""

import html
import inspect
import re
import textwrap
import tokenize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warc_files import CODE, PROSE, article, documentation, source_page

from data_prep.web.html import TooDeepError, extract
from data_prep.web.settings import ExtractionSettings

SETTINGS = ExtractionSettings()
LINES = [line for line in CODE.splitlines() if line.strip()]


def text_of(page: str, **settings) -> str:
    return extract(page, ExtractionSettings(**settings)).text


def in_order(lines: list[str], text: str) -> bool:
    """Whether the lines are lines of the text, with their indentation, one behind the other."""
    left = iter(line.rstrip() for line in text.splitlines())
    return all(line.rstrip() in left for line in lines)


@pytest.mark.parametrize(
    "block",
    [
        f"<pre>{CODE}</pre>",
        f"<pre>\n{CODE}</pre>",
        f'<pre class="code"><code class="language-python">{CODE}</code></pre>',
        f"<PRE><CODE>{CODE}</CODE></PRE>",
        f"<ul><li>Item<pre>{CODE}</pre></li><li>Other <ol><li><pre>{CODE}</pre></li></ol></li></ul>",
        f"<blockquote><pre>{CODE}</pre></blockquote>",
        f"<table><tr><td><pre>{CODE}</pre></td><td>Beside</td></tr></table>",
        "<pre>" + CODE.replace("\n", "<br>") + "</pre>",
        "<pre>" + "\n".join(f"<span class='w'>{line}</span>" for line in CODE.split("\n")) + "</pre>",
        "<pre>" + CODE.replace(" ", "&nbsp;") + "</pre>",
        f"<xmp>{CODE}</xmp>",
        '<div class="fragment">' + "\n".join(f'<div class="line">{line}</div>' for line in CODE.split("\n")) + "</div>",
        '<div class="fragment">'
        + "\n".join(f'<div class="line"><span class="lineno">   {n}</span>{x}</div>' for n, x in enumerate(LINES))
        + "</div>",
    ],
)
def test_code_keeps_its_layout(block):
    text = text_of(article(block))
    assert in_order(LINES, text)
    assert text.count(PROSE.strip()) == 6, "the prose around it stays"
    assert not re.search("[\x01-\x04]", text)


def test_lines_of_doxygen_are_no_paragraphs():
    lines = "".join(f'<div class="line">{line}</div>\n' for line in ("int f()", "{", "  return 1;", " ", "}"))
    assert "int f()\n{\n  return 1;\n \n}" in text_of(article(f'<div class="fragment">{lines}</div>'))


def test_code_that_starts_indented():
    text = text_of(article("<ul><li><pre>    first\n  second\n</pre></li></ul><pre>\n\n\tthird\n</pre>"))
    assert in_order(["    first", "  second", "\tthird"], text)


@pytest.mark.parametrize("linenos", [False, "table", "inline"])
def test_a_real_module_comes_out_as_it_was_written(linenos):
    """Pygments' page of a module with every kind of layout, without its line numbers."""
    code = inspect.getsource(tokenize).expandtabs()
    text = text_of(source_page(tokenize, linenos))
    assert in_order([line for line in code.splitlines() if line.strip()], text)
    assert code.strip() in text.replace("\xa0", " "), "blank lines, too, and nothing between"


def test_real_documentation_keeps_its_words():
    (_, data), *_ = documentation(textwrap)
    found = extract(data.decode(), SETTINGS)
    assert found.title == "Python: textwrap" and "Wrap a single paragraph of text" in found.text
    assert "<" not in re.sub(r"<\w+ object|<[a-z_]+>", "", found.text)


def test_only_the_main_content_is_taken():
    page = article("<pre>x = 1</pre>")
    assert "Menu entry" not in text_of(page) and "imprint" not in text_of(page)
    assert "Menu entry" in text_of(page, main_content=False)


def test_the_element_that_says_it_is_the_main_content_is_taken():
    body = f"<div><p>{PROSE}</p></div><main><h1>Title</h1><ul><li><a href='x'>A linked entry</a></li></ul></main>"
    assert text_of(f"<body>{body}</body>").split() == ["Title", "•", "A", "linked", "entry"]
    assert PROSE.strip() in text_of(f"<body>{body.replace('A linked entry', '').replace('Title', '')}</body>")
    two = f"<body>{body}<main>{PROSE}</main></body>"
    assert PROSE.strip() in text_of(two), "where several say so, none is believed"


def test_code_in_a_menu_is_not_lost():
    """What the library takes for a menu is left out, unless code would be lost by that."""
    lists = "".join(f"<li><a href='{n}'>{n}</a><pre>    command_{n}\n</pre></li>" for n in range(6))
    page = f"<html><body><div class='nav menu'><ul>{lists}</ul></div><p>{PROSE}</p></body></html>"
    assert in_order([f"    command_{n}" for n in range(6)], text_of(page))
    assert "command_1" not in text_of(page, min_code_kept=0)


@pytest.mark.parametrize(
    ("block", "has_code", "blocks"),
    [
        ("<pre>x = 1</pre>", True, 1),
        ("Call <code>f(x)</code>.", True, 0),
        ("Type <kbd>q</kbd>, it says <SAMP class=a>bye</SAMP>", True, 0),
        ("<pre> \n </pre> <code></code>", False, 0),
        ("<codex>f(x)</codex> <prefix>no</prefix>", False, 0),
        ("<!-- <pre>x</pre> --><script>'<pre>x</pre>'</script>", False, 0),
        ("&lt;pre&gt;x = 1&lt;/pre&gt;", False, 0),
    ],
)
def test_what_code_is(block, has_code, blocks):
    found = extract(article(block), SETTINGS)
    assert (found.has_code, found.code_blocks) == (has_code, blocks)
    assert (found.code_share > 0) == has_code


def test_share_of_code():
    found = extract(f"<body><main>{'a' * 50}<pre>{'b' * 100}</pre><code>{'c' * 50}</code></main></body>", SETTINGS)
    assert found.code_share == pytest.approx(0.75, abs=0.02)


def test_elements_that_are_left_out():
    heading = "<h2>Usage<a class='headerlink' href='#usage'>¶</a></h2>"
    page = f"<body><main>{heading}<div><button>Copy</button><pre>x = 1</pre></div></main></body>"
    assert text_of(page).split() == ["Usage", "x", "=", "1"]
    assert text_of(page, skip=["button"]).split() == ["Usage¶", "x", "=", "1"]


@pytest.mark.parametrize("page", ["<div>" * 3000 + "x", "<div>" * 3000 + "x" + "</div>" * 3000, "<b><i>" * 2000 + "x"])
def test_deep_nesting_is_refused(page):
    with pytest.raises(TooDeepError, match="512"):
        extract(page, SETTINGS)


def test_many_elements_side_by_side_are_not_deep():
    page = article("<p>line<br>" * 3000 + "".join(f"<div><i>{n}</i></div>" for n in range(3000)))
    assert "2999" in text_of(page)


@given(st.text(st.sampled_from("ab \n\t<>/&;=\"'precodmain\x01\x02\x03\x04\0é\u3042"), max_size=200))
def test_any_text_is_a_page(text):
    found = extract(f"<body><main>{text}</main></body>", SETTINGS)
    assert not set("\x01\x02\x03\x04") & set(found.text) and 0 <= found.code_share <= 1
    assert "\n\n\n" not in found.text or found.code_blocks


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).map(str.strip).filter(bool),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(0, 12), min_size=8, max_size=8),
)
def test_any_code_keeps_its_indentation(words, indents):
    lines = [" " * indent + word for indent, word in zip(indents, words, strict=False)]
    body = html.escape("\n".join(lines), quote=False)
    for page in (f"<body><main><pre>{body}</pre></main></body>", article(f"<ul><li><pre>{body}</pre></li></ul>")):
        assert in_order(lines, text_of(page))
