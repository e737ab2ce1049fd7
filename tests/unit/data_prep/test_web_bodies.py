"""Bodies as servers and crawlers leave them: encodings that are declared, missing, wrong, hostile; and addresses."""

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from warc_files import PROSE

from data_prep.web.charset import decode
from data_prep.web.http import BodyError, BodyLimits, can_be_html, decoded_body, is_html
from data_prep.web.site import address_of

HTML = ("<html><body>" + PROSE * 50 + "</body></html>").encode()
LIMITS = BodyLimits(1 << 20, 200)


def bare_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


def chunked(data: bytes, size: int = 100) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


SENT = {
    "gzip": gzip.compress(HTML),
    "x-gzip": gzip.compress(HTML),
    "br": brotli.compress(HTML),
    "deflate": zlib.compress(HTML),
    "Deflate": bare_deflate(HTML),
    "zstd": zstandard.compress(HTML),
    "identity": HTML,
    "": HTML,
    "unheard-of": HTML,
    "gzip, br": brotli.compress(gzip.compress(HTML)),
}


@pytest.mark.parametrize("encoding", SENT)
def test_content_encodings(encoding):
    assert decoded_body(SENT[encoding], "", encoding, LIMITS) == HTML
    assert decoded_body(chunked(SENT[encoding]), "Chunked", encoding, LIMITS) == HTML
    assert decoded_body(HTML, "chunked", encoding, LIMITS) == HTML, "the crawler took all of it off"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_nothing_says_is_compressed(encoding):
    assert decoded_body(SENT[encoding], "", "", LIMITS) == HTML
    assert decoded_body(gzip.compress(SENT[encoding]), "", "gzip", LIMITS) == HTML


PAGE = "".join(f"<p>{number * 7919 % 10007}</p>" for number in range(50_000)).encode()


@pytest.mark.parametrize(
    ("whole", "headers"),
    [
        (gzip.compress(PAGE), ("", "gzip")),
        (brotli.compress(PAGE), ("", "br")),
        (zlib.compress(PAGE), ("", "deflate")),
        (bare_deflate(PAGE), ("", "deflate")),
        (chunked(PAGE), ("chunked", "")),
        (chunked(gzip.compress(PAGE)), ("chunked", "gzip")),
    ],
)
def test_what_is_cut_short_gives_what_there_is(whole, headers):
    found = decoded_body(whole[: len(whole) * 2 // 3], *headers, LIMITS)
    assert len(found) > len(PAGE) / 10 and PAGE.startswith(found)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "Deflate", "zstd"])
def test_bombs(encoding):
    """A gigabyte of zeros is never made."""
    zeros = bytes(1 << 26)
    sent = {"gzip": gzip.compress, "br": lambda data: brotli.compress(data, quality=5), "deflate": zlib.compress,
            "Deflate": bare_deflate, "zstd": zstandard.compress}[encoding](zeros)  # fmt: skip
    with pytest.raises(BodyError) as error:
        decoded_body(sent, "", encoding, BodyLimits(1 << 30, 200))
    assert error.value.reason == "bomb"
    with pytest.raises(BodyError) as error:
        decoded_body(sent, "", encoding, BodyLimits(1 << 20, 1e9))
    assert error.value.reason == "too_large"


def test_too_large_without_any_encoding():
    with pytest.raises(BodyError) as error:
        decoded_body(HTML, "", "", BodyLimits(len(HTML) - 1, 200))
    assert error.value.reason == "too_large"
    assert decoded_body(HTML, "", "", BodyLimits(len(HTML), 200)) == HTML


def test_damaged_from_the_start():
    for sent, encoding in ((zstandard.compress(PAGE)[:100], "zstd"), (b"\x1f\x8b\x08" + b"\xff" * 100, "gzip")):
        with pytest.raises(BodyError) as error:
            decoded_body(sent, "", encoding, LIMITS)
        assert error.value.reason == "bad_encoding"


@given(st.binary(max_size=300), st.sampled_from(["", "gzip", "br", "deflate", "zstd", "gzip, br"]), st.booleans())
def test_any_bytes_have_an_answer(data, encoding, is_chunked):
    for body in (data, b"\x1f\x8b\x08" + data, b"\x78\x9c" + data, b"5\r\n" + data, SENT["br"][:20] + data):
        try:
            assert len(decoded_body(body, "chunked" if is_chunked else "", encoding, LIMITS)) <= LIMITS.max_bytes
        except BodyError as error:
            assert error.reason in ("bad_encoding", "bomb", "too_large")


@pytest.mark.parametrize(
    ("content_type", "data", "expected"),
    [
        ("text/html", b"anything", True),
        ("Application/XHTML+XML; charset=x", b"<p>", True),
        ("text/html", b"%PDF-1.4", False),
        ("text/html", b"\x89PNG\r\n", False),
        ("", b"\n <!-- x --><!DOCTYPE HTML><p>", True),
        ("text/plain", b"\xef\xbb\xbf<html lang=en>", True),
        ("application/octet-stream", b"<?xml version='1.0'?>\n<html>", True),
        ("text/xml", b"<?xml version='1.0'?><rss>", False),
        ("text/plain", b"The <html> tag starts a page", False),
        ("image/png", b"<html>", False),
        ("application/json", b"{}", False),
    ],
)
def test_what_is_html(content_type, data, expected):
    assert (can_be_html(content_type) and is_html(content_type, data)) == expected


TEXTS = {
    "cp1252": "<p>Über die Brücke geht der Weg, naïve café “quotes” – dash</p>",
    "cp1250": "<p>Příliš žluťoučký kůň úpěl ďábelské ódy, zažółć gęślą jaźń</p>",
    "cp932": "<p>日本語のページです。プログラミングについて書いています。</p>",
    "euc_jp": "<p>日本語のページです。プログラミングについて書いています。</p>",
    "iso2022_jp": "<p>日本語のページです。プログラミングについて書いています。</p>",
    "gb18030": "<p>这是一个关于编程的中文网页，我们在这里讨论代码。</p>",
    "big5": "<p>這是一個關於程式設計的中文網頁，我們在這裡討論程式碼。</p>",
    "cp949": "<p>이것은 프로그래밍에 관한 한국어 페이지입니다.</p>",
    "koi8_r": "<p>Это страница о программировании на русском языке.</p>",
    "cp1251": "<p>Это страница о программировании на русском языке.</p>",
    "cp1253": "<p>Αυτή είναι μια σελίδα για τον προγραμματισμό στα ελληνικά.</p>",
    "utf-8": "<p>Über die Brücke – 日本語 – Это страница</p>",
    "utf-16": "<p>Über die Brücke – 日本語</p>",
    "utf-16-le": "<p>Plain words</p>",
}
LABELS = {"cp932": "Shift_JIS", "cp949": "EUC-KR", "iso2022_jp": "iso-2022-jp", "gb18030": "gb2312"}
NOT_DETECTED = {"cp1250"}  # for sure: other alphabets fit, too


@pytest.mark.parametrize("encoding", TEXTS)
def test_charsets(encoding):
    """Declared in the header or in the page; declared wrongly; not declared."""
    text = f"<html><head><title>x</title></head>{TEXTS[encoding] * 6}"
    label = LABELS.get(encoding, encoding.replace("_", "-"))
    meta = text.replace("<title>", f'<meta http-equiv="Content-Type" content="text/html; charset={label}"><title>')
    said = [(f"text/html; charset={label}", text), (f'text/html;Charset="{label}"', text), ("text/html", meta)]
    unsaid = [("text/html", text), ("text/html; charset=rubbish", text), ("text/html; charset=utf-8", text)]
    latin = [("text/html; charset=iso-8859-1", text)] if encoding not in ("utf-16-le", "iso2022_jp") else []
    for content_type, wanted in said + ([] if encoding in NOT_DETECTED else unsaid + latin):
        found = decode(wanted.encode(encoding), content_type, 0.99)
        assert found is not None and found[0] == wanted, content_type


def test_the_name_of_the_encoding_is_pythons():
    assert decode("<p>é".encode("latin-1"), "text/html; charset=ISO-8859-1", 0.99) == ("<p>é", "cp1252")
    assert decode("\ufeff<p>é".encode(), "text/html; charset=ISO-8859-1", 0.99) == ("<p>é", "utf-8")


def test_some_bytes_that_fit_nothing():
    page = ("<p>" + "Über die Brücke. " * 100).encode() + b"\xff\xfe\xfd"
    text, encoding = decode(page, "text/html; charset=utf-8", 0.99)
    assert encoding == "utf-8" and text.startswith("<p>Über die") and 0 < text.count("\ufffd") <= 3


@pytest.mark.parametrize("data", [bytes(range(256)) * 20, b"\0" * 100, b"<p>a\0b</p>"])
def test_what_is_no_text(data):
    assert decode(data, "text/html", 0.99) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://User:pw@Docs.Python.ORG:8080/a?b=c#frag", ("http://docs.python.org:8080/a?b=c", "python.org")),
        ("https://www.bbc.co.uk", ("https://www.bbc.co.uk", "bbc.co.uk")),
        ("HTTP://a.b.kawasaki.jp./x", ("http://a.b.kawasaki.jp/x", "a.b.kawasaki.jp")),
        ("https://ann.github.io/tool/", ("https://ann.github.io/tool/", "ann.github.io")),
        ("http://127.0.0.1/x", ("http://127.0.0.1/x", "127.0.0.1")),
        ("http://[2001:DB8::1]:80/x", ("http://[2001:db8::1]:80/x", "2001:db8::1")),
        ("http://localhost/a b", ("http://localhost/a b", "localhost")),
        ("http://münchen.de/ü", ("http://xn--mnchen-3ya.de/ü", "xn--mnchen-3ya.de")),
        ("<http://example.org/>", ("http://example.org/", "example.org")),
        ("https://example.org/?q=http://other.org/", ("https://example.org/?q=http://other.org/", "example.org")),
    ],
)
def test_addresses(url, expected):
    found = address_of(url, 2048)
    assert (found.url, found.site) == expected


@pytest.mark.parametrize(
    "url",
    ["", "ftp://a/b", "http:///x", "http://a b.com/", "http://..com/", "http://x:99999/", "dns:e.org", "http://[::1",
     "http://e.org/\n", "http://e.org/\x00", "http://e.org/" + "a" * 2048, "http://ex%20ample.org/", "javascript:0",
     "http://" + "ü" * 300 + ".de/", "http://exa<mple.org/"],
)  # fmt: skip
def test_what_is_no_address(url):
    assert address_of(url + ("x" if url.endswith("\n") else ""), 2048) is None


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text):
    for url in (text, f"http://{text}", f"http://e.org/{text}"):
        found = address_of(url, 2048)
        assert found is None or (found.url.startswith(("http://", "https://")) and found.host and found.site)
