"""The annotation `imports`: what each file says of other files (see `data_prep.repositories.extract`).

Made like any annotation, in a process of its own: a file that crashes or hangs its parser has none, and is counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from data_prep.annotators.syntax import ParsingAnnotator
from data_prep.repositories.extract import extract

NAME = "imports"
_NAMES = pa.list_(pa.string())


class Imports(ParsingAnnotator):
    """Imports, names used and names declared; null for languages whose imports are not read."""

    version = 1
    columns: ClassVar = {"imports": _NAMES, "names": _NAMES, "declares": _NAMES}

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        found = [extract(document["language"], document["path"], document["text"]) for document in documents]
        return {name: [one and getattr(one, name) for one in found] for name in self.columns}
