"""A selection function of your own: tests in which work is left to be done are dropped.

megatron-seed data annotate CORPUS examples.own_annotator:todos
megatron-seed data select CORPUS --rule "unfinished tests=examples.own_selection:unfinished_tests"
"""

from data_prep.select import selection_function


@selection_function(reads=["path", "todos.todos"], version=1)
def unfinished_tests(documents, most: int = 0):
    """True drops a document, False and None do not; every document is judged by itself."""
    tests = ["test" in document["path"].lower() for document in documents]
    counts = [document["todos.todos"] or 0 for document in documents]  # null where the annotator failed
    return [test and count > most for test, count in zip(tests, counts, strict=True)]
