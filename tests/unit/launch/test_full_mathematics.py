"""Explanations with formulas that `quickstart --full` makes mathematical pages of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.web.html import extract
from data_prep.web.settings import load_config
from launch.full.mathematics import as_html, explanations

ZETA = r'''"""Special functions."""


def zeta(s):
    r"""
    Sum of the series of :func:`~special.zeta`, which for :math:`s > 1` is smaller than two & more than one.

    .. math ::
        :label: zeta

        \zeta(s) = \sum_{n=1}^{\infty}
                   \frac{1}{n^s}

    It is named after Riemann, who showed where else than for such `s` there is a value, and what `s \mapsto 1 - s` does
    to it. The product over the primes, which is Euler's, is equal to it wherever both are defined:

    .. math:: \zeta(s) = \prod_p \frac{1}{1 - p^{-s}}

    Parameters
    ----------
    s : complex
        Where the value is wanted, as :math:`s`.

    Notes
    -----
    Values at even numbers are powers of :math:`\pi`, with ``zeta(2)`` the first of them.

        >>> zeta(2)
        1.6449340668482264

    As one is used to::

        import special

        special.zeta(3)

    .. [1] B. Riemann, 1859.

    Examples
    --------
    >>> zeta(4)
    1.0823232337111382
    """
'''


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for name in ("special/zeta.py", "special/tests/zeta.py", "special/more/deep/zeta.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ZETA)
    (tmp_path / "special" / "damaged.py").write_text(ZETA + "def (:\n")
    (tmp_path / "special" / "latin.py").write_bytes(ZETA.encode() + b"# \xe9\n")
    (tmp_path / "special" / "plain.py").write_text(f'"""{"Nothing to be computed. " * 40}"""\n')
    return tmp_path


def test_explanations_are_found_by_their_formulas(packages: Path) -> None:
    found = {place: site for site, place, _ in explanations(packages)}
    assert found == {"special/zeta.py/5": "special-zeta", "special/more/deep/zeta.py/5": "special-more-deep"}


def test_formulas_and_prose_stay_and_code_goes(packages: Path) -> None:
    text = next(explanations(packages))[2]
    title, body = as_html(text)
    assert title == r"Sum of the series of special.zeta, which for \(s > 1\) is smaller than two & more than one."
    assert r"<p>\[ \zeta(s) = \sum_{n=1}^{\infty} \frac{1}{n^s} \]</p>" in body
    assert r"<p>\[ \zeta(s) = \prod_p \frac{1}{1 - p^{-s}} \]</p>" in body
    assert r"for such s there is a value, and what \(s \mapsto 1 - s\) does" in body
    assert "<h2>Notes</h2>" in body and r"powers of \(\pi\), with zeta(2) the first" in body
    for gone in ("Parameters", "complex", ">>>", "1.64", "import", "1859", "Examples", ":label:", "::", "`"):
        assert gone not in body, gone


def test_the_page_has_no_code_tags_and_keeps_its_formulas(packages: Path) -> None:
    title, body = as_html(next(explanations(packages))[2])
    page = extract(f"<html><body><h1>{title}</h1>{body}</body></html>", load_config().extraction)
    assert not page.has_code and r"\zeta(s) = \prod_p \frac{1}{1 - p^{-s}}" in page.text


def test_what_is_too_short_is_no_page() -> None:
    assert as_html("The number :math:`1`, then :math:`2` and :math:`3`.") is None
    assert as_html("") is None


@given(
    st.text(
        alphabet=st.sampled_from(
            " \n\t.:`>=-*\\x(math)<&",
        ),
        max_size=300,
    )
)
def test_any_text_gives_a_page_or_none(text: str) -> None:
    made = as_html("Title\n\n" + text + "\n\n" + ":math:`x` and " * 60)
    assert made is None or ("<x" not in made[1] and made[1].count("<p>") == made[1].count("</p>"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("line", [".. math::\n\n   x\n", "    \n", "::\n\n  x\n", ">>> x\n", "Notes\n---\n", ":math:`"])
def test_much_of_the_same_is_read(line: str) -> None:
    made = as_html(line * (100_000 // len(line)))
    assert made is None or len(made[1]) < 200_000
