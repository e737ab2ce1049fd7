"""Blocklists: what an entry covers, how lists are written, and lists that are wrong."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotators.base import AnnotatorSpec, fingerprint_of
from data_prep.annotators.blocklist import Blocklist, Entries
from data_prep.errors import DataError
from data_prep.web.site import address_of


@pytest.fixture
def entry(tmp_path):
    """entry(list, url) is what blocks the page."""

    def find(text, url):
        path = tmp_path / "list.txt"
        path.write_text(text, encoding="utf-8")
        found = Blocklist(lists=(str(path),)).annotate([{"path": url}])
        assert found["blocked"] == [found["entry"][0] is not None]
        return found["entry"][0]

    return find


@pytest.mark.parametrize(
    ("line", "blocked", "open_"),
    [
        ("spam.org", ["spam.org", "www.spam.org/x", "a.b.spam.org", "SPAM.org:8080/"], ["notspam.org", "spam.org.uk"]),
        ("www.spam.org", ["www.spam.org/x"], ["spam.org", "m.spam.org"]),
        ("*.spam.org", ["spam.org", "x.spam.org"], ["myspam.org"]),
        ("spam.org/ads", ["spam.org/ads", "x.spam.org/ads/1?q=2"], ["spam.org", "spam.org/adsense", "spam.org/x/ads"]),
        ("https://spam.org/ads/", ["spam.org/ads/a"], ["spam.org/a"]),
        ("spam.org/a?id=1", ["spam.org/a?id=1"], ["spam.org/a", "spam.org/a?id=12"]),
        ("spam.org/*/print", ["spam.org/a/b/print", "www.spam.org/x/print"], ["spam.org/print", "spam.org/x/print/2"]),
        ("*/wp-login.php*", ["any.org/wp-login.php?x=1", "b.org/x/wp-login.php"], ["any.org/wp-login"]),
        (r"/^shop\d+\./", ["shop12.org/x"], ["myshop1.org", "shop.org"]),
        (r"/[?&]affiliate=/", ["ok.org/x?a=1&affiliate=3"], ["ok.org/affiliate=3"]),
        ("0.0.0.0 spam.org", ["spam.org/x"], ["ok.org"]),
        ("127.0.0.1\tspam.org # why", ["spam.org"], ["ok.org"]),
        ("bücher.example", ["xn--bcher-kva.example/1", "bücher.example"], ["bucher.example"]),
        ("1.2.3.4", ["1.2.3.4/x"], ["9.1.2.3.4.example.org", "2.3.4.5"]),
    ],
)
def test_what_an_entry_covers(entry, line, blocked, open_):
    for url in blocked:
        assert entry(f"{line}\n", f"http://{url}") is not None, url
    for url in open_:
        assert entry(f"{line}\n", f"http://{url}") is None, url


def test_a_public_suffix_means_that_host_alone(entry):
    text = "github.io\nco.uk\n"
    assert entry(text, "https://github.io/") == "github.io"
    assert entry(text, "https://ann.github.io/x") is None and entry(text, "https://bbc.co.uk") is None
    assert entry(text + "*.github.io\n", "https://ann.github.io/x") == "github.io"
    assert entry(text + "ann.github.io\n", "https://ann.github.io/x") == "ann.github.io"


def test_the_widest_entry_is_named_and_names_come_before_patterns(entry):
    text = "spam.org/x\nwww.spam.org\nspam.org\n/spam/\n"
    assert entry(text, "https://www.spam.org/x") == "spam.org"
    assert entry("spam.org/x\n/spam/\n", "https://www.spam.org/x/y") == "spam.org/x"
    assert entry("/spam/\nok.org", "https://www.spam.org/x/y") == "/spam/"


def test_nothing_is_said_of_what_has_no_address(entry):
    for path in ("src/main.py", "", "ftp://spam.org", "http://", "http://[::1", "mailto:a@spam.org"):
        found = Blocklist(lists=()).model_copy(update={"lists": ("unused",)})
        found.__dict__["entries"] = Entries()
        assert found.annotate([{"path": path}]) == {"blocked": [None], "entry": [None]}


def test_lists_as_they_are_published(entry):
    text = "# Title\r\n\r\n  spam.org  \r\n127.0.0.1 localhost\n::1 localhost\nAds.Example.COM\nlast.org"
    for url in ("spam.org", "ads.example.com/x", "last.org"):
        assert entry(text, f"https://{url}")
    assert entry(text, "https://localhost.org") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ok.org\n||spam.org^\n", r"line 2: '\|\|spam.org\^' is no domain"),
        ("spam\n", "line 1"),
        ("two words.org\n", "line 1"),
        ("ok.org\n\n/(/\n", "line 3: .* no regular expression"),
        ("# only comments\n", "no entry"),
        ("", "no entry"),
    ],
)
def test_lines_that_are_no_entry_are_named(tmp_path, text, said):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        Blocklist(lists=(str(path),)).prepare()


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="needs a list"):
        Blocklist().prepare()
    with pytest.raises(DataError, match="there is no file"):
        Blocklist(lists=(str(tmp_path / "none.txt"),)).prepare()
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"spam.org\n" * 999)[:-9])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("torn.gz", "binary.txt"):
        with pytest.raises(DataError, match="no text that can be read"):
            Blocklist(lists=(str(tmp_path / name),)).prepare()


def test_another_content_makes_answers_again_and_lists_may_be_zipped(tmp_path):
    spec = AnnotatorSpec.of("blocklist", lists=[str(tmp_path / "a.txt")])
    (tmp_path / "a.txt").write_text("spam.org\n")
    first = fingerprint_of(spec, spec.load())
    (tmp_path / "a.txt").write_text("spam.org\nads.org\n")
    assert fingerprint_of(spec, spec.load()) != first
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"spam.org\n"))
    zipped = Blocklist(lists=(str(tmp_path / "a.txt.gz"),))
    assert zipped.annotate([{"path": "http://spam.org"}])["entry"] == ["spam.org"]


LABEL = st.text("ab1-", min_size=1, max_size=3)
NAME = st.lists(LABEL, min_size=2, max_size=4).map(".".join)


@given(st.lists(NAME, min_size=1, max_size=8, unique=True), NAME, st.sampled_from(["", "/", "/p/q?r=1"]))
def test_a_domain_covers_itself_and_what_ends_in_it(names, host, after):
    entries = Entries()
    entries.add([], [("wide", name) for name in names])
    entries.finish()
    url = f"http://{host}{after}"
    expected = [name for name in names if f".{host}".endswith(f".{name}")]
    address = address_of(url, 1000)
    if address is not None:
        assert entries.match(address) == (min(expected, key=len) if expected else None)
