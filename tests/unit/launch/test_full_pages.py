"""Web archives of `quickstart --full`, read by warcio, which we did not write."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from launch.full import pages
from launch.full.pages import write_archives
from launch.full.warc import Page, write_warc


@pytest.fixture(autouse=True)
def docs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documentation of two sites, in the place of this machine's."""
    folder = tmp_path_factory.mktemp("docs")
    for site in ("one", "two"):
        (folder / site / "html").mkdir(parents=True)
        for number in range(30):
            (folder / site / "html" / f"{number}.html").write_text(f"<p>{site} {number}</p>")
    (folder / "two" / "html" / "long.html").write_bytes(b"x" * (pages.MOST_BYTES + 1))
    monkeypatch.setattr(pages, "_FOLDERS", (str(folder), str(folder / "missing")))
    return folder


@pytest.fixture(autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages that explain what they compute, in the place of this machine's."""
    folder = tmp_path_factory.mktemp("packages")
    for package in ("series", "integrals"):
        (folder / package).mkdir()
        for number in range(6):
            said = "\n\n".join(
                f"It is :math:`x_{{{n}}} = {n + number}`, as {package} of this kind have it." for n in range(9)
            )
            (folder / package / f"part{number}.py").write_text(
                f'def f():\n    r"""The {package} {number}.\n\n{said}"""\n'
            )
    monkeypatch.setattr(pages, "_PACKAGES", str(folder))
    return folder


def read(path: Path) -> list[tuple[str, str, bytes]]:
    """(URL, content type, body) of every response; digests are checked."""
    with path.open("rb") as stream:
        return [
            (
                record.rec_headers.get_header("WARC-Target-URI"),
                record.http_headers.get_header("Content-Type"),
                record.content_stream().read(),
            )
            for record in ArchiveIterator(stream, check_digests="raise")
            if record.rec_type == "response"
        ]


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_warcio_reads_what_was_written(tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("warc") / "a.warc.gz"
    written = [Page(f"https://a.example/{number}", body) for number, body in enumerate(bodies)]
    assert write_warc(path, written) == len(bodies) + 1
    assert read(path) == [(page.url, "text/html", page.html) for page in written]


def test_equal_pages_give_equal_bytes(tmp_path: Path) -> None:
    made = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_warc(tmp_path / folder / "a.warc.gz", [Page("https://a.example/", b"<p>x</p>")])
        made.append((tmp_path / folder / "a.warc.gz").read_bytes())
    assert made[0] == made[1]


def test_no_site_has_more_than_its_part(tmp_path: Path) -> None:
    found = write_archives(tmp_path / "warc", 60)
    shipped = read(tmp_path / "warc" / "shipped-000.warc.gz")
    assert found["shipped"]["pages"] == len(shipped) == 4  # two of each site: a tenth of 21
    assert {url.split("/")[2] for url, *_ in shipped} == {"one.example", "two.example"}
    assert found["pydoc"]["pages"] == 9
    assert all(b"<pre>" in body or b"<tt>" in body or b"<dt>" in body
               for *_, body in read(tmp_path / "warc" / "pydoc-000.warc.gz"))  # fmt: skip


def test_the_environment_is_on_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret-indeed")
    found = write_archives(tmp_path, 1500)
    bodies = [body for url, _, body in read(tmp_path / "pydoc-000.warc.gz")]
    assert found["pydoc"]["pages"] > 100 and any(b"environ" in body for body in bodies)
    assert not any(b"very-secret-indeed" in body for body in bodies)


def test_readmes_keep_their_code(tmp_path: Path) -> None:
    found = write_archives(tmp_path, 200)
    read_back = read(tmp_path / "readme-000.warc.gz")
    assert found["readme"]["pages"] == len(read_back) > 10
    names = {one.metadata["Name"].lower() for one in importlib.metadata.distributions() if one.metadata["Name"]}
    assert sum(b"<pre><code" in body for *_, body in read_back) > 5
    assert {url.split("/")[2].removesuffix(".example") for url, *_ in read_back} <= {
        "".join(c if c.isalnum() else "-" for c in name) for name in names
    }


def test_explanations_become_pages_without_code_tags(tmp_path: Path) -> None:
    found = write_archives(tmp_path, 60)
    made = read(tmp_path / "mathematics-000.warc.gz")
    assert found["mathematics"]["pages"] == len(made) == found["mathematics"]["sites"] == 12
    assert "https://series-part3.example/mathematics/series/part3.py/2" in {url for url, *_ in made}
    assert all(b"<h1>The " in body and b"\\(x_{8} =" in body and b"<code" not in body for *_, body in made)


def test_the_same_machine_gives_the_same_archives(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_archives(tmp_path / folder, 1500)  # every module of the library: what is left out shows an address
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
