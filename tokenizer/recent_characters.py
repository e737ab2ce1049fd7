"""Characters on which two programs can disagree, because their Unicode tables are of different years.

A split by `\\p{L}`, `\\p{N}` or `\\s` depends on what counts as a letter, digit or blank, and every version of Unicode
adds some: gigatoken 0.10 knows version 17, Hugging Face tokenizers 0.23 version 16.
"""

import numpy as np

# Letters, marks, digits and separators that came after Unicode 14 (2021), up to version 17 (2025).
_RANGES = (
    "558 58b-58c 5c8-5c9 88f 897 b53-b54 c5c cdc cf3 ece 1acf-1af0 1c89-1c8a 208f 209d-209f a7cb-a7cf a7d2 a7d4 "
    "a7da-a7dd a7e2 a7f1 ab6c-ab6d 105c0-105f3 107bb-107bf 10940-10959 10d40-10d65 10d69-10d6d 10d6f-10d85 "
    "10ec2-10ec7 10ecb-10ecf 10ed9-10eee 10ef0-10eff 1123f-11241 11380-11389 1138b 1138e 11390-113b5 113b7-113c0 "
    "113c2 113c5 113c7-113ca 113cc-113d3 113e1-113e2 116d0-116e3 11b0a 11b60-11b67 11bc0-11be0 11bf0-11bf9 "
    "11db0-11ddb 11de0-11de9 11df0-11df1 11f00-11f10 11f12-11f3a 11f3e-11f42 11f50-11f5a 1246f 12475-1247f "
    "12550-12686 1342f 13440-13455 13460-143fa 16100-16139 16d40-16d6c 16d70-16d79 16ea0-16eb8 16ebb-16ed3 "
    "16ff2-16ff6 187f8-187ff 18cd6-18cda 18cff 18d09-18d20 18d80-18df2 18e00-19191 191a0-191d2 1b123-1b128 1b132 "
    "1b155 1b168 1ccf0-1ccf9 1d127-1d128 1d250-1d252 1d25b-1d25c 1d25f 1d280-1d281 1d2c0-1d2d3 1d6a6 1df1f-1df81 "
    "1df90-1df96 1dfcd-1dfff 1e030-1e06d 1e08f 1e4d0-1e4f9 1e5d0-1e5fa 1e6c0-1e6de 1e6e0-1e6f5 1e6fe-1e6ff "
    "2b739-2b73f 2b81e 2cea2-2cead 2ebf0-2ee5d 31350-33479 3d000-3fc3f "
)


def _table() -> np.ndarray:
    table = np.zeros(0x110000, bool)
    for row in _RANGES.split():
        first, _, last = row.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] = True
    table.setflags(write=False)
    return table


_RECENT = _table()
_FIRST = int(np.argmax(_RECENT))


def has_recent_characters(text: str) -> bool:
    """Whether a text holds a character that encoders may split differently."""
    if text.isascii():
        return False
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return bool(_RECENT[characters[characters >= _FIRST]].any())
