"""WARC files for tests, written by warcio, and the real pages that go into them."""

import html
import inspect
import io
import json
import pydoc
import textwrap
from collections.abc import Iterable
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

HTML_TYPE = "text/html; charset=utf-8"
PROSE = "This paragraph says in plain words what the code below is for, and when it should be used instead. "
Response = tuple[str, bytes]  # URL and body


def documentation(*modules) -> list[Response]:
    """The pages that pydoc writes about modules of the standard library."""
    writer = pydoc.HTMLDoc()
    return [
        (
            f"https://docs.example.org/{module.__name__}.html",
            writer.page(module.__name__, writer.document(module)).encode(),
        )
        for module in modules
    ]


def article(code_html: str, title: str = "An article", prose: str = PROSE * 3) -> str:
    """A page with a menu, a heading, prose and code."""
    return (
        f"<!DOCTYPE html><html><head><title>{title}</title></head><body>"
        "<nav><ul><li><a href='/'>Menu entry</a></li><li><a href='/all'>Another entry</a></li></ul></nav>"
        f"<article><h1>{title}</h1><p>{prose}</p>{code_html}<p>{prose}</p></article>"
        "<footer>Copyright and imprint</footer></body></html>"
    )


def source_page(module, linenos: bool | str = False) -> str:
    """A page with the source of a module as Pygments lays it out."""
    return article(highlight(inspect.getsource(module), PythonLexer(), HtmlFormatter(linenos=linenos)), module.__name__)


def plain_page(number: int = 0) -> bytes:
    return article(f"<pre>{html.escape(CODE)}</pre>", f"Page {number}", f"{PROSE} It has number {number}.").encode()


CODE = textwrap.dedent("""\
    def walk(tree):
        for child in tree:
            if child.is_leaf:
                yield child

            else:
    \t\tyield from walk(child)
    """)


def warc_bytes(
    responses: Iterable[Response],
    gzip: bool = True,
    status: str = "200 OK",
    headers: Iterable[tuple[str, str]] = (("Content-Type", HTML_TYPE),),
    kind: str = "response",
) -> bytes:
    """A WARC file of these responses, alike but for their URL and body; the same bytes each time."""
    return b"".join(
        record_bytes(url, body, gzip=gzip, status=status, headers=headers, kind=kind) for url, body in responses
    )


def record_bytes(
    url, body, gzip=True, status="200 OK", headers=(("Content-Type", HTML_TYPE),), kind="response", **warc
):
    """One record; `warc` are further WARC headers, with underscores for hyphens."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=gzip)
    http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1") if kind == "response" else None
    told = {"WARC-Record-ID": "<urn:uuid:12345678-1234-1234-1234-123456789abc>", "WARC-Date": "2024-05-06T07:08:09Z"}
    told |= {name.replace("_", "-"): value for name, value in warc.items()}
    record = writer.create_warc_record(
        url,
        kind,
        payload=io.BytesIO(body),
        http_headers=http,
        warc_headers_dict=told,
        warc_content_type="" if http else dict(headers)["Content-Type"],
    )
    writer.write_record(record)
    return out.getvalue()


def counted(report) -> dict[str, int]:
    """Reason to drop -> count."""
    return {reason: drop["count"] for reason, drop in report.drops.items()}


def read_ledgers(corpus: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((corpus / "imports").glob("*.ledger"))]
