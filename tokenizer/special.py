"""Special tokens: which there are, what they are called and which ids they have.

Strings and ids are those of the public Seed-Coder tokenizer (ByteDance-Seed/Seed-Coder-8B-Base, tokenizer.json). The
ids between them are filled with reserved tokens, so that the first learned token has the same id in every tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizer.errors import TokenizerError

ROLES = ("bos", "pad", "eos", "unk", "mask", "sep", "fim_prefix", "fim_suffix", "fim_middle")
FIM_ROLES = ("fim_suffix", "fim_prefix", "fim_middle")  # in the order of a suffix-prefix-middle document

IDS: Mapping[str, int] = {
    "bos": 0,
    "pad": 1,
    "eos": 2,
    "unk": 3,
    "mask": 5,
    "sep": 6,
    "fim_prefix": 124,
    "fim_suffix": 125,
    "fim_middle": 126,
}
STRINGS: Mapping[str, str] = {
    "bos": "<[begin▁of▁sentence]>",
    "pad": "<[PAD▁TOKEN]>",
    "eos": "<[end▁of▁sentence]>",
    "unk": "<unk>",
    "mask": "<[MASK▁TOKEN]>",
    "sep": "<[SEP▁TOKEN]>",
    "fim_prefix": "<[fim-prefix]>",
    "fim_suffix": "<[fim-suffix]>",
    "fim_middle": "<[fim-middle]>",
}
NUM_SPECIAL = max(IDS.values()) + 1


def special_strings() -> list[str]:
    """The strings of all special tokens of our own tokenizers, reserved ones included; the index is the id."""
    roles = {IDS[role]: role for role in ROLES}
    return [STRINGS[roles[i]] if i in roles else f"<[reserved-{i}]>" for i in range(NUM_SPECIAL)]


@dataclass(frozen=True)
class SpecialTokens:
    """The id of each role, None where the tokenizer has no such token."""

    bos: int | None = None
    pad: int | None = None
    eos: int | None = None
    unk: int | None = None
    mask: int | None = None
    sep: int | None = None
    fim_prefix: int | None = None
    fim_suffix: int | None = None
    fim_middle: int | None = None

    def require(self, *roles: str) -> tuple[int, ...]:
        """The ids of `roles`, in that order. Raises `TokenizerError` naming every role that is missing."""
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise TokenizerError(f"no such role: {', '.join(unknown)}; the roles are {', '.join(ROLES)}")
        missing = [role for role in roles if getattr(self, role) is None]
        if missing:
            raise TokenizerError(
                f"the tokenizer has no token for {', '.join(missing)}; "
                "name its own token for each, as in --role eos='<|endoftext|>'"
            )
        return tuple(getattr(self, role) for role in roles)
