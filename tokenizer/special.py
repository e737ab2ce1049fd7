"""Special tokens: which there are, what they are called and which ids they have.

Strings and ids are those of the public Seed-Coder tokenizer (ByteDance-Seed/Seed-Coder-8B-Base, tokenizer.json). The
ids between them are filled with reserved tokens, so that the first learned token has the same id in every tokenizer.
Tokens of a group, which are ours, take the place of reserved ones in a tokenizer that is trained with them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tokenizer.errors import TokenizerError

FIM_ROLES = ("fim_suffix", "fim_prefix", "fim_middle")  # in the order of a suffix-prefix-middle document
COMMIT_ROLES = ("commit_message", "commit_readme", "commit_tree", "commit_file", "commit_paths", "commit_changes")
GROUPS: Mapping[str, tuple[str, ...]] = {"commits": COMMIT_ROLES}
ALWAYS = ("bos", "pad", "eos", "unk", "mask", "sep", "fim_prefix", "fim_suffix", "fim_middle")
ROLES = (*ALWAYS, *COMMIT_ROLES)

IDS: Mapping[str, int] = {
    "bos": 0,
    "pad": 1,
    "eos": 2,
    "unk": 3,
    "mask": 5,
    "sep": 6,
    "commit_message": 7,
    "commit_readme": 8,
    "commit_tree": 9,
    "commit_file": 10,
    "commit_paths": 11,
    "commit_changes": 12,
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
    **{role: f"<[{role.replace('_', '-')}]>" for role in COMMIT_ROLES},
}
NUM_SPECIAL = max(IDS.values()) + 1


def roles_with(groups: Collection[str]) -> dict[str, str]:
    """Role -> string, of those in every tokenizer of ours and of `groups`. Raises `TokenizerError` for a group that
    does not exist."""
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown:
        raise TokenizerError(f"no such group of special tokens: {', '.join(unknown)}; there is {', '.join(GROUPS)}")
    return {role: STRINGS[role] for role in (*ALWAYS, *(role for group in groups for role in GROUPS[group]))}


def special_strings(groups: Collection[str] = ()) -> list[str]:
    """The strings of all special tokens of our own tokenizers, reserved ones included; the index is the id."""
    strings = {IDS[role]: string for role, string in roles_with(groups).items()}
    return [strings.get(index, f"<[reserved-{index}]>") for index in range(NUM_SPECIAL)]


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
    commit_message: int | None = None
    commit_readme: int | None = None
    commit_tree: int | None = None
    commit_file: int | None = None
    commit_paths: int | None = None
    commit_changes: int | None = None

    def require(self, *roles: str) -> tuple[int, ...]:
        """The ids of `roles`, in that order. Raises `TokenizerError` naming every role that is missing."""
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise TokenizerError(f"no such role: {', '.join(unknown)}; the roles are {', '.join(ROLES)}")
        missing = [role for role in roles if getattr(self, role) is None]
        if missing:
            groups = [group for group, its in GROUPS.items() if set(missing) & set(its)]
            train = f"train one with {' '.join(f'--special {group}' for group in groups)}, or " if groups else ""
            example = f"{missing[0]}='<[reserved-{IDS[missing[0]]}]>'" if groups else "eos='<|endoftext|>'"
            raise TokenizerError(
                f"the tokenizer has no token for {', '.join(missing)}; {train}"
                f"name its own token for each, as in --role {example}"
            )
        return tuple(getattr(self, role) for role in roles)
