"""matplotlib figures as inline SVG that takes its colours and font from the page's style sheet, for light and dark.

A chart is drawn once per width, in CSS pixels; the style sheet shows the one that fits, so that text keeps its size.
"""

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure

from data_prep.report.formats import visible

WIDTHS = {"wide": 880, "narrow": 350}
_PIXELS_PER_INCH = 72  # of matplotlib's SVG
_FONT_PIXELS = 12.5

# Stand-ins that matplotlib writes, replaced by the style sheet's variables of the same names.
INK, MUTED, LINE, PAPER, TRAIN, HELD_OUT, DROP, LEVEL = (f"#0a0a{index:02x}" for index in range(8))
RUNS = tuple(f"#0a0a{index:02x}" for index in range(8, 16))
"""Of runs that are compared; a page that draws them includes `runs.css`, or has colours of its own by these names."""
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    TRAIN: "train",
    HELD_OUT: "held-out",
    DROP: "drop",
    LEVEL: "level",
    **{colour: f"run-{number}" for number, colour in enumerate(RUNS, 1)},
}

Draw = Callable[..., None]


def render(name: str, title: str, text: str, heights: Mapping[str, int], draw: Draw) -> dict[str, Markup]:
    """What `draw(figure, narrow=...)` draws, per width. `title` and `text` are for those who cannot see it."""
    forms = {}
    for form, width in WIDTHS.items():
        document = _document(f"{name}-{form}", width, heights[form], partial(draw, narrow=form == "narrow"))
        forms[form] = _inline(document, title, text)
    return forms


def _document(name: str, width: int, height: int, draw: Draw) -> ElementTree.Element:
    """The SVG document, with ids that no other chart of the page has."""
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": _FONT_PIXELS,
        "axes.facecolor": "none",
        **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "text.color"), INK),
    }
    stream = io.BytesIO()
    inches = (width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH)
    with matplotlib.style.context(settings, after_reset=True):
        figure = Figure(inches, dpi=_PIXELS_PER_INCH, layout="constrained", facecolor="none")
        draw(figure)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(stream.getvalue())
    for element in root.iter():
        for key, value in element.attrib.items():
            own = f"{name}-{value}" if key == "id" else re.sub(r"^#|(?<=url\()#", f"#{name}-", value)
            element.set(key, own)
    root.set("id", name)
    return root


def _inline(root: ElementTree.Element, title: str, text: str) -> Markup:
    """A document as an element of a page: no name spaces, no style sheet of its own, a title, variables for colours."""
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _style(value) for key, value in element.attrib.items()}
    root.remove(next(child for child in root if child.find("style") is not None))
    name = root.get("id")
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-text"}
    for index, (tag, key, content) in enumerate((("title", "title", title), ("desc", "text", text))):
        element = ElementTree.Element(tag, {"id": f"{name}-{key}"})
        element.text = visible(content)
        root.insert(index, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _style(value: str) -> str:
    """An attribute with variables for the stand-ins, and without a font, so that the page's is inherited."""
    value = re.sub(r"font-family: [^;]*;? ?", "", value)
    return re.sub("|".join(_VARIABLES), lambda match: f"var(--{_VARIABLES[match[0]]})", value)
