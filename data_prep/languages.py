"""Which language a file is in: by its name, its extension, and where those do not settle it by what it says.

Nothing is parsed and nothing is guessed by statistics: every answer follows from a row of `language_table.py` or from
one of the rules below (shebang, modeline, patterns), and a file that no row or rule knows is `unknown`.
"""

import re
from pathlib import PurePosixPath

from data_prep.language_table import ALIASES, EXTENSIONS, FILE_NAMES, INTERPRETERS, LANGUAGES

UNKNOWN = "unknown"
RULES_VERSION = 2  # raised whenever an answer changes: documents imported under other rules are imported anew
HEAD_CHARACTERS = 16_384
NOTEBOOK_EXTENSION = "ipynb"  # of files that name their language inside
# Unlisted extensions whose files may still say by a shebang what they are.
SCRIPT_EXTENSIONS = frozenset({"", "cgi", "fcgi", "run", "script", "init"})


def _inverted(table: dict[str, str]) -> dict[str, tuple[str, ...]]:
    inverse: dict[str, tuple[str, ...]] = {}
    for language, words in table.items():
        for word in words.split():
            inverse[word] = (*inverse.get(word, ()), language)
    return inverse


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()


_BY_EXTENSION = _inverted(EXTENSIONS)
_BY_FILE_NAME = {word: languages[0] for word, languages in _inverted(FILE_NAMES).items()}
_BY_INTERPRETER = {word: languages[0] for word, languages in _inverted(INTERPRETERS).items()}
_BY_ALIAS = {word: languages[0] for word, languages in _inverted(ALIASES).items()} | {
    _plain(name): name for name in LANGUAGES
}

_OBJECTIVE_C = r"^[ \t]*(@(interface|implementation|protocol|class|property|end|import|synthesize)\b|#import\s+[<\"])"
_CPP = (
    r"^[ \t]*(template\s*<|namespace(\s+[\w:]+)?\s*(\{|$)|class\s+\w+(\s+\w+)?\s*(final\s*)?([:{<]|$)"
    r"|using\s+(namespace\s+[\w:]+\s*;|\w+\s*=|[\w:]+\s*;)|(public|private|protected)\s*:|constexpr\s"
    r"|virtual\s[^\n]*\(|explicit\s+\w+\s*\()"
    r"|\bstd::|\b(static|dynamic|reinterpret|const)_cast<|\b(nullptr|noexcept)\b"
    r"|^[ \t]*#\s*include\s*<(algorithm|array|atomic|cstd\w+|functional|iostream|list|map|memory|set|sstream|string"
    r"|thread|tuple|utility|vector)>"
)
_PERL = (
    r"^[ \t]*(use|no)\s+(strict|warnings|v?5|utf8|\w+::|vars|lib|base|parent)"
    r"|^[ \t]*(sub\s+\w+|my\s*[($@%]|our\s+[$@%]|package\s+[\w:]+;)"
)
_PROLOG = r"^:-\s*\w|^[a-z]\w*(\(.*\))?\s*(:-|-->)|^[a-z]\w*\(.*\)\.\s*$"
_LISP = r"(?i)^[ \t]*\((defun|defmacro|in-package|defpackage|defvar|defparameter|defclass|defgeneric)\b"
_PASCAL_PART = (
    r"^[ \t]*(\{\$\w|procedure\s+\w|function\s+\w[^;{]*:[ \t]*\w+;|begin[ \t]*\r?$|end[.;][ \t]*\r?$"
    r"|uses[ \t]+[\w.]+[ \t]*[,;]|(type|var|const)[ \t]*\r?$"
    r"|\w+[ \t]*=[ \t]*(class|record|object|packed|interface|\^\w+;|\d+;|\$[0-9a-f]+;))|:=[^\n]*;[ \t]*\r?$"
)
_NO_PREPROCESSOR = r"\A(?![\s\S]*^[ \t]*#[ \t]*(include|define|undef|if|ifdef|ifndef|pragma)\b)[\s\S]*?"
_PASCAL = r"(?i)^[ \t]*(unit\s+[\w.]+;|program\s+\w+|uses\s|procedure\s+\w|begin\s*$|end[.;]\s*$|\{\$\w)"
_VISUAL_BASIC = (
    r"(?i)^[ \t]*(attribute\s+vb_|version\s+\d+\.\d+\s+class|option\s+explicit"
    r"|((public|private)\s+)?(sub|function)\s+\w+\s*\(|dim\s+\w+.*\bas\b|end\s+(sub|function))"
)

# For an extension: (language, pattern) in the order they are tried; no pattern: whatever is left.
_CONTENT_RULES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "als": (("Alloy", r"^[ \t]*((abstract|one|lone|some)\s+)?(sig|module|open|pred|fact|fun|assert|run|check)\b"),),
    "bas": (("Visual Basic", _VISUAL_BASIC),),
    "cl": (("Common Lisp", _LISP),),
    "cls": (
        ("Visual Basic", r"(?i)^(version\s+\d|attribute\s+vb_name)"),
        ("TeX", r"\\(NeedsTeXFormat|ProvidesClass|RequirePackage|LoadClass|newcommand|def)\b"),
    ),
    "cmd": ((UNKNOWN, r"\A\s*/\*"), ("Batchfile", None)),
    "comp": (("GLSL", r"^[ \t]*#version|\b(uniform|gl_\w+)\b|layout\s*\("),),
    "cs": (("Smalltalk", r"^!\s*[\w ]+\s+methodsFor:"), ("C#", None)),
    "do": (("Stata", None),),
    "es": (("Erlang", r"^[ \t]*(%%|main\s*\(.*\)\s*->)"), ("JavaScript", None)),
    "exp": (
        ("Tcl", r"^[ \t]*((set|proc|expect|spawn|send|global|source|foreach|package require|load_\w+)\s|if\s*\{)"),
    ),
    "f": ((UNKNOWN, r"^: \w"), ("Fortran", None)),
    "for": ((UNKNOWN, r"^: \w"), ("Fortran", None)),
    "frag": (("GLSL", r"^[ \t]*#version|\b(uniform|varying|gl_\w+)\b|void\s+main\s*\("),),
    "frm": (("Visual Basic", r"(?i)^version\s+\d|^attribute\s+vb_"),),
    "fs": (
        (UNKNOWN, r"(?i)^(\\ |: \S|(new-device|require|include|variable|constant|create|decimal|hex)\s)"),
        ("GLSL", r"^[ \t]*(#version|precision\s|uniform\s|varying\s)|\bgl_Frag\w+"),
        ("F#", None),
    ),
    "fun": (("Standard ML", r"^[ \t]*(functor|structure|signature|fun|val)\b"),),
    "g": (
        (
            "ANTLR",
            r"^[ \t]*(((lexer|parser|tree)\s+)?grammar\s+\w+\s*;|class\s+\w+\s+extends\s+\w*(Lexer|Parser)\b)",
        ),
    ),
    "h": ((UNKNOWN, _OBJECTIVE_C), ("C++", _CPP), ("C", None)),
    "hh": ((UNKNOWN, r"\A<\?hh"), ("C++", None)),
    "inc": (
        ("PHP", r"<\?(php|=|\s)"),
        ("Pascal", f"(?i:{_NO_PREPROCESSOR}(?:{_PASCAL_PART}))"),
        ("C++", _CPP),
        ("C", r"^[ \t]*#\s*(include|define|if|ifdef|ifndef|pragma)\b|^(static|extern|struct|typedef|const)\s"),
        ("Assembly", r"(?i)^[ \t]*(\w+:[ \t]*)?(mov|push|pop|lda|ldr|jmp|i?db|%(macro|define|ifdef))[ \t]"),
    ),
    "inl": (("C++", r"[;{}]|//|/\*"),),
    "ins": (("TeX", r"\\(input|generate|keepsilent|usedir)\b"),),
    "l": (("Common Lisp", _LISP),),
    "m": (
        (UNKNOWN, _OBJECTIVE_C + r"|^[ \t]*#include\b|^:- module"),
        ("Mathematica", r"^[ \t]*\(\*|^[ \t]*(Begin(Package)?|Needs|Module|Get)\[|\w\[\w{0,40}_[\w, ]{0,80}\]\s*:?="),
        ("MATLAB", None),
    ),
    "md": ((UNKNOWN, r"^[ \t]*\(define_(insn|expand|predicate|constraint)\b"), ("Markdown", None)),
    "mpl": (("Maple", r":=\s*(proc|module|table|x->)|\bend\s+(proc|do|if|module)\b|^[ \t]*with\s*\(\w+\)"),),
    "php": ((UNKNOWN, r"\A<\?hh"), ("PHP", None)),
    "pl": (("Perl", r"\A#!.*perl|" + _PERL), ("Prolog", _PROLOG), ("Perl", None)),
    "pm": ((UNKNOWN, r"/\* XPM \*/|^[ \t]*use\s+v6\b|^[ \t]*(unit\s+)?(class|role)\s+[\w:]+\s*[;{]"), ("Perl", None)),
    "pp": (("Pascal", _PASCAL),),
    "pro": (("Prolog", _PROLOG),),
    "r": ((UNKNOWN, r"(?i)\A\s*rebol\s*\["), ("R", None)),
    "s": (("Assembly", None),),
    "sc": (
        (
            UNKNOWN,
            r"\b(SynthDef|Synth|Ndef|Pbind)\s*\(|^[ \t]*\+\s*\w+\s*\{|^[A-Z]\w*\s*(:\s*\w+\s*)?\{"
            r"|^[ \t]*(arg|classvar)\s[^\n]*;",
        ),
        ("Scala", r"^[ \t]*(import|package|object|class|trait|case class|def|val|var)\b"),
    ),
    "sig": (("Standard ML", r"^[ \t]*(signature|structure|type|val|eqtype)\b"),),
    "st": (("Smalltalk", r"^!|\bsubclass:|\bmethodsFor:|^[ \t]*\|[\w ]+\|\s*$|\bself\b.*\."),),
    "t": (("Perl", r"\A#!.*perl|^require\s+['\"./]|^BEGIN\s*\{|" + _PERL),),
    "tag": (("Java Server Pages", r"<%@\s*(tag|attribute|taglib|include|variable)\b"),),
    "ts": ((UNKNOWN, r"\A\s*(<\?xml|<!DOCTYPE TS|<TS\b)"), ("TypeScript", None)),
    "tsx": ((UNKNOWN, r"\A\s*<(\?xml|tileset\b)"), ("TypeScript", None)),
    "v": (
        (UNKNOWN, r"^[ \t]*(Require|Import|Theorem|Lemma|Definition|Fixpoint|Inductive|Proof|Section|Notation)\b"),
        ("Verilog", r"^[ \t]*(module|endmodule|primitive|`(timescale|define|include|ifn?def)|always|assign|initial)\b"),
    ),
    "vh": (("Verilog", None),),
    "xml": (("XSLT", r"<(xsl:)?(stylesheet|transform)\b[^>]*http://www\.w3\.org/1999/XSL/Transform"),),
    "y": (("Yacc", r"^%%|^%(token|start|union|type|left|right|define|\{)"),),
    "yy": (("Yacc", r"^%%|^%(token|start|union|type|left|right|define|\{)"),),
}  # fmt: skip
_COMPILED_RULES = {
    extension: tuple((language, re.compile(pattern, re.MULTILINE) if pattern else None) for language, pattern in rules)
    for extension, rules in _CONTENT_RULES.items()
}
_SHEBANG = re.compile(r"\A#![ \t]*(\S+)([^\r\n]*)")
_EMACS_MODELINE = re.compile(r"-\*-(?:.*?\bmode:)?[ \t]*([\w+#\- ]+?)[ \t]*(?:;.*?)?-\*-", re.IGNORECASE)
_VIM_MODELINE = re.compile(r"\b(?:vi|vim|ex):.*?\b(?:ft|filetype|syntax)=(\w+)")


def extension_of(path: str) -> str:
    """What follows the last dot of the file's name, in lower case; "" for none and for names like `.bashrc`."""
    return PurePosixPath(path).suffix[1:].lower()


def by_name(path: str) -> tuple[str, ...]:
    """The languages a file can be in going by its name alone; empty when its content would have to say."""
    name = path.rpartition("/")[2]
    if name in _BY_FILE_NAME:
        return (_BY_FILE_NAME[name],)
    if name.lower().startswith(("dockerfile.", "containerfile.")):
        return ("Dockerfile",)
    if name.endswith(".C"):
        return ("C++",)
    if name.endswith((".md", ".tex")) and name.count(".") > 1 and name.split(".")[-2] == "lagda":
        return ("Literate Agda",)
    if name.endswith(".coffee.md"):
        return ("Literate CoffeeScript",)
    return _BY_EXTENSION.get(extension_of(name), ())


def may_be_code(path: str) -> bool:
    """Whether a file with this name is worth reading: False means it is `unknown` whatever it says."""
    return bool(by_name(path)) or extension_of(path) in SCRIPT_EXTENSIONS or is_notebook(path)


def is_notebook(path: str) -> bool:
    return extension_of(path) == NOTEBOOK_EXTENSION


def by_alias(name: str) -> str:
    """The language that an editor, a table or a person calls `name`, or `unknown`."""
    return _BY_ALIAS.get(_plain(name), UNKNOWN)


def detect(path: str, text: str) -> str:
    """The language of a file: one of `LANGUAGES`, or `unknown`; looks at `HEAD_CHARACTERS` of `text` at most."""
    candidates = by_name(path)
    extension = extension_of(path)
    rules = _COMPILED_RULES.get(extension, ()) if candidates == _BY_EXTENSION.get(extension) else ()
    if candidates and not rules:
        return candidates[0]
    if not candidates and extension not in SCRIPT_EXTENSIONS:
        return UNKNOWN
    head = text[:HEAD_CHARACTERS]
    said = _by_interpreter(head)
    if said == UNKNOWN:
        said = _by_modeline(head)
    if said != UNKNOWN and (not candidates or said in candidates):
        return said
    return _by_rules(rules, head)


def _by_rules(rules: tuple[tuple[str, re.Pattern[str] | None], ...], head: str) -> str:
    for language, pattern in rules:
        if pattern is None or pattern.search(head):
            return language
    return UNKNOWN


def _by_interpreter(head: str) -> str:
    match = _SHEBANG.match(head)
    if match is None:
        return UNKNOWN
    words = [match.group(1), *match.group(2).split()]
    if words[0].rpartition("/")[2] == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    interpreter = words[0].rpartition("/")[2].lower() if words else ""
    if interpreter in ("sh", "bash") and re.search(r"^[ \t]*exec\s+tclsh", head[:500], re.MULTILINE):
        return "Tcl"
    return _BY_INTERPRETER.get(interpreter) or _BY_INTERPRETER.get(re.sub(r"[\d.]+$", "", interpreter), UNKNOWN)


def _by_modeline(head: str) -> str:
    first_lines = "\n".join(line[:200] for line in head.split("\n", 5)[:5])
    for pattern in (_EMACS_MODELINE, _VIM_MODELINE):
        match = pattern.search(first_lines)
        if match and (language := by_alias(match.group(1))) != UNKNOWN:
            return language
    return UNKNOWN
