"""Changes of settings: sections are merged, items of lists are named by number or by name."""

import pytest

from data_prep.arguments import settings_of
from data_prep.errors import DataError
from data_prep.settings import merged

FILE = {"seed": 1, "near": {"words": 5}, "rules": [{"name": "long", "drop": "a"}, {"name": "2", "drop": "b"}, 7]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=2", {**FILE, "seed": 2}),
        ("near.bands=3", {**FILE, "near": {"words": 5, "bands": 3}}),
        ("new.key=[1, 2]", {**FILE, "new": {"key": [1, 2]}}),
        ("rules=[]", {**FILE, "rules": []}),
        ("rules.0.drop=c", {**FILE, "rules": [{"name": "long", "drop": "c"}, *FILE["rules"][1:]]}),
        ("rules.long.keep=d", {**FILE, "rules": [{"name": "long", "drop": "a", "keep": "d"}, *FILE["rules"][1:]]}),
        ("rules.2.drop=e", {**FILE, "rules": [FILE["rules"][0], {"name": "2", "drop": "e"}, 7]}),  # a name first
        ("rules.1=8", {**FILE, "rules": [FILE["rules"][0], 8, 7]}),
        ("seed.key=1", {**FILE, "seed": {"key": 1}}),
    ],
)
def test_a_change(change, expected):
    before = repr(FILE)
    assert merged(FILE, settings_of([change])) == expected
    assert repr(FILE) == before


@pytest.mark.parametrize("key", ["3", "-1", "short", "²"])
def test_an_item_that_is_not_there(key):
    with pytest.raises(DataError, match=rf"rules\.{key}: no such item; there are long, 2, 2$"):
        merged(FILE, settings_of([f"rules.{key}.drop=x"]))
