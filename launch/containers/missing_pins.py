"""`python missing_pins.py CONSTRAINTS`: print those pins whose package this interpreter does not have yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def missing_pins(constraints: str) -> Iterator[str]:
    for line in constraints.splitlines():
        name, equals, _ = line.strip().partition("==")
        if not equals or name.startswith("#"):
            continue
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield line.strip()


if __name__ == "__main__":
    print("\n".join(missing_pins(Path(sys.argv[1]).read_text(encoding="utf-8"))))
