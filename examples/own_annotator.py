"""An annotator of your own: how often a file asks for work to be done, and whether that is too often.

megatron-seed data annotate CORPUS examples.own_annotator:todos --set word=FIXME
megatron-seed data select CORPUS --rule "unfinished=todos.too_many"
"""

from data_prep.annotate import annotator


@annotator(columns={"todos": "int32", "too_many": "bool"}, version=1)
def todos(documents, word: str = "TODO", most: int = 5):
    """One value for each document and column; every document is judged by itself."""
    counts = [document["text"].count(word) for document in documents]
    return {"todos": counts, "too_many": [count > most for count in counts]}
