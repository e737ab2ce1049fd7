"""Needles: a small function that returns a random value, and the beginning of a check that asks for it, by language.

Both stand for themselves and need nothing around them. A question ends in an opening quote, so that what follows it is
the value alone, whatever a tokenizer makes of spaces.
"""

import hashlib
from typing import NamedTuple

_WORDS = """
    amber basil cedar cobalt copper coral delta ember fable falcon garnet harbor hazel indigo ivory jasper juniper
    kestrel lagoon lantern linen maple marble meadow nectar nickel onyx opal orchid pebble quartz raven ripple saffron
    slate sparrow sorrel summit thistle timber topaz tulip umber velvet violet walnut willow zephyr
"""


class Template(NamedTuple):
    needle: str
    """Whole lines; {name} and {value} are filled in."""
    question: str
    """The beginning of a line."""
    extension: str


TEMPLATES = {
    "C": Template('static const char *{name}(void) {{ return "{value}"; }}', 'assert(strcmp({name}(), "', "c"),
    "C#": Template('static string {name}() => "{value}";', 'Debug.Assert({name}() == "', "cs"),
    "C++": Template('std::string {name}() {{ return "{value}"; }}', 'assert({name}() == "', "cpp"),
    "Go": Template('func {name}() string {{\n\treturn "{value}"\n}}', 'if got := {name}(); got != "', "go"),
    "Java": Template('static String {name}() {{\n    return "{value}";\n}}', 'assert {name}().equals("', "java"),
    "JavaScript": Template('function {name}() {{\n  return "{value}";\n}}', 'console.assert({name}() === "', "js"),
    "Kotlin": Template('fun {name}() = "{value}"', 'check({name}() == "', "kt"),
    "Lua": Template('local function {name}()\n  return "{value}"\nend', 'assert({name}() == "', "lua"),
    "PHP": Template('function {name}() {{\n    return "{value}";\n}}', 'assert({name}() === "', "php"),
    "Python": Template('def {name}():\n    return "{value}"', 'assert {name}() == "', "py"),
    "Ruby": Template('def {name}\n  "{value}"\nend', 'raise unless {name} == "', "rb"),
    "Rust": Template('fn {name}() -> &\'static str {{\n    "{value}"\n}}', 'assert_eq!({name}(), "', "rs"),
    "Scala": Template('def {name}: String = "{value}"', 'assert({name} == "', "scala"),
    "Shell": Template('{name}() {{\n  echo "{value}"\n}}', 'test "$({name})" = "', "sh"),
    "Swift": Template('func {name}() -> String {{\n    return "{value}"\n}}', 'assert({name}() == "', "swift"),
    "TypeScript": Template(
        'function {name}(): string {{\n  return "{value}";\n}}', 'console.assert({name}() === "', "ts"
    ),
}


class Needle(NamedTuple):
    """What is looked for."""

    name: str
    value: str
    """Eight digits."""

    def text(self, language: str, indentation: str = "") -> str:
        """The needle's lines, each behind `indentation`, the last one with its end."""
        filled = TEMPLATES[language].needle.format(name=self.name, value=self.value)
        return "".join(f"{indentation}{line}\n" for line in filled.split("\n"))

    def question(self, language: str) -> str:
        return TEMPLATES[language].question.format(name=self.name, value=self.value)


def needle_of(key: str) -> Needle:
    """A name and a value that follow from a key."""
    digest = hashlib.blake2b(key.encode(), digest_size=24, person=b"needle").digest()
    one, other, number = (int.from_bytes(digest[i : i + 8], "big") for i in (0, 8, 16))
    words = _WORDS.split()
    name = f"{words[one % len(words)]}_{words[other % len(words)]}_{number % 90 + 10}"
    return Needle(name, f"{number // 90 % 90_000_000 + 10_000_000}")
