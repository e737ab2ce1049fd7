"""Licence: what a file's own header says (SPDX tag, notice), else what the licence file nearest to it does."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from data_prep.annotators.base import Annotator
from data_prep.licences import by_file_name, is_permissive, recognise

_IDENTIFIER = r"\(*[A-Za-z0-9.+\-]*[A-Za-z0-9+]\)*"
_SPDX = re.compile(
    rf"SPDX-License-Identifier:[ \t]*({_IDENTIFIER}(?:[ \t]+(?:AND|OR|WITH)[ \t]+{_IDENTIFIER})*)", re.IGNORECASE
)


class Licence(Annotator):
    """SPDX identifiers. `licence` is the closest: the file's tag, its notice, then the nearest licence file."""

    head_characters: int = Field(8192, ge=1)
    """Where a file's licence is looked for."""

    version = 1
    columns: ClassVar = {
        "spdx": pa.string(),
        "notice": pa.string(),
        "licence_text": pa.string(),
        "licence": pa.string(),
        "permissive": pa.bool_(),
    }
    reads = ("text", "licence_file", "repository_licence")

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        rows = [self._look(document) for document in documents]
        return {name: [row[name] for row in rows] for name in self.columns}

    def _look(self, document: Mapping[str, Any]) -> dict[str, Any]:
        head = document["text"][: self.head_characters]
        spdx, notice = spdx_tag(head), recognise(head)
        licence_text = document["repository_licence"] or by_file_name(document["licence_file"] or "")
        licence = spdx or notice or licence_text
        return {
            "spdx": spdx,
            "notice": notice,
            "licence_text": licence_text,
            "licence": licence,
            "permissive": is_permissive(licence) if licence else None,
        }


def spdx_tag(text: str) -> str | None:
    """The licence expression of the first SPDX tag."""
    match = _SPDX.search(text)
    return " ".join(match[1].split()) if match else None
