"""The order of files and the parts of large repositories, against networkx and by their properties."""

import itertools

import networkx
from hypothesis import given
from hypothesis import strategies as st

from data_prep.repositories.files import File
from data_prep.repositories.order import connected, cycles, in_order, parts_under


@st.composite
def graphs(draw):
    """needs: for each of some files the files that it imports."""
    count = draw(st.integers(1, 30))
    needs = [draw(st.sets(st.integers(0, count - 1), max_size=4)) - {index} for index in range(count)]
    return [sorted(others) for others in needs]


def drawn(needs) -> networkx.DiGraph:
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(needs)))
    graph.add_edges_from((index, other) for index, others in enumerate(needs) for other in others)
    return graph


@given(graphs(), st.randoms())
def test_cycles_are_those_of_networkx_and_dependencies_come_first(needs, random):
    starts = list(range(len(needs)))
    random.shuffle(starts)
    groups = cycles(needs, starts)
    expected = {frozenset(group) for group in networkx.strongly_connected_components(drawn(needs))}
    assert {frozenset(group) for group in groups} == expected
    place = {index: number for number, group in enumerate(groups) for index in group}
    assert all(place[other] <= place[index] for index, others in enumerate(needs) for other in others)


def test_a_very_long_chain_needs_no_deep_stack():
    count = 50_000
    needs = [[index + 1] for index in range(count - 1)] + [[]]
    assert [group[0] for group in cycles(needs, range(count))] == list(reversed(range(count)))
    needs[-1] = [0]
    assert len(cycles(needs, range(count))) == 1


@given(graphs())
def test_connected_files_are_those_of_networkx(needs):
    found = {}
    for index, root in enumerate(connected(len(needs), needs)):
        found.setdefault(root, set()).add(index)
    expected = {frozenset(group) for group in networkx.weakly_connected_components(drawn(needs))}
    assert {frozenset(group) for group in found.values()} == expected


def files_of(count: int, language: str = "Python") -> list[File]:
    return [File(f"d{index % 3}/f{index}.py", language) for index in range(count)]


@given(graphs())
def test_every_file_comes_once_whatever_order_files_are_given_in(needs):
    files = files_of(len(needs))
    order = in_order(files, needs, {"Python"}, "key")
    assert sorted(order) == list(range(len(files)))
    back = list(reversed(range(len(files))))
    turned = in_order([files[i] for i in back], [[back.index(o) for o in needs[i]] for i in back], {"Python"}, "key")
    assert [files[i].path for i in order] == [files[back[i]].path for i in turned]


def test_without_dependencies_the_order_is_random_and_keyed():
    files = [File(f"f{index}.sql", "SQL") for index in range(50)]
    orders = {key: in_order(files, [[]] * 50, {"Python"}, key) for key in ("a", "b")}
    assert orders["a"] == in_order(files, [[]] * 50, {"Python"}, "a")
    assert orders["a"] != orders["b"] and list(range(50)) not in orders.values()
    assert all(sorted(order) == list(range(50)) for order in orders.values())


def test_files_of_a_folder_stay_together_and_others_come_first():
    files = [*files_of(9), File("x.sql", "SQL"), File("d0/y.html", "HTML")]
    order = in_order(files, [[]] * 11, {"Python"}, "key")
    assert set(order[:2]) == {9, 10}
    folders = [files[index].path.split("/")[0] for index in order[2:]]
    assert sum(one != two for one, two in itertools.pairwise(folders)) == 2


@given(graphs(), st.data())
def test_parts_hold_every_file_once_keep_the_order_and_the_limit(needs, data):
    count = len(needs)
    sizes = [data.draw(st.integers(1, 50)) for _ in range(count)]
    limit = data.draw(st.integers(1, 300))
    order = in_order(files_of(count), needs, {"Python"}, "key")
    parts = parts_under(order, sizes, needs, limit)
    assert sorted(index for part in parts for index in part) == list(range(count))
    place = {index: at for at, index in enumerate(order)}
    of = connected(count, needs)
    size_of = {root: sum(size for index, size in enumerate(sizes) if of[index] == root) for root in set(of)}
    if sum(sizes) <= limit:
        assert parts == [order]
    for part in parts:
        assert sum(sizes[index] for index in part) <= limit or len(part) == 1
        for root in {of[index] for index in part}:
            members = [index for index in part if of[index] == root]
            assert members == sorted(members, key=place.__getitem__)
            if size_of[root] <= limit:  # a subgraph that fits is whole
                assert len(members) == of.count(root)
            else:  # a slice of a large one has a part to itself
                assert len(members) == len(part)
