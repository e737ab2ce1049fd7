"""The few numbers that matter, in words."""

from typing import Any

from data_prep.report.formats import count, decimal
from data_prep.report.tiles import Tile

LAYOUT = {
    "tensor_parallel": "processes share the matrices of every layer",
    "pipeline_parallel": "groups of layers, each on a process of its own, pass batches on",
    "data_parallel": "copies of the model each read their own part of a batch",
    "context_parallel": "processes share every sequence",
    "sequence_parallel": "what lies between those matrices is shared too, along the sequence",
    "distributed_optimizer": "copies of the model share the optimizer's state",
}


def tiles(results: dict[str, Any]) -> list[Tile]:
    """The tiles of the first screen; those of stages that have not run are left out."""
    training = results.get("training") or {}
    found = [_documents(results), *_speed(training, results), *_quality(training), proof(results)]
    return [tile for tile in found if tile]


def _documents(results: dict[str, Any]) -> Tile | None:
    data = results.get("data") or {}
    if not data.get("import"):
        return None
    imported = count(data["import"]["documents"])
    if not data.get("selection"):
        return Tile("Documents", imported, "imported", "Source files that are readable text in a known language.")
    left = data["selection"]["left"]
    held_out = count(left["held_out"]["documents"])
    note = f"Imported → trained on. A further {held_out} are held out: the model is tested on them and never sees them."
    return Tile("Documents", f"{imported} → {count(left['train']['documents'])}", "", note)


def _speed(training: dict[str, Any], results: dict[str, Any]) -> list[Tile]:
    found = []
    if training.get("tokens") is not None:
        bytes_per_token = (results.get("tokenizer") or {}).get("bytes_per_token")
        unit = f", {decimal(bytes_per_token)} bytes each on average" if bytes_per_token else ""
        note = f"Pieces of text as the model reads them{unit}; in {count(training.get('steps'))} optimizer steps."
        found.append(Tile("Trained on", count(training["tokens"]), "tokens", note))
    if training.get("tokens_per_second") is not None:
        where = f"{count(training.get('processes'))} {training.get('device') or ''}".strip()
        note = f"Median over the steps, of {where} processes together."
        found.append(Tile("Speed", count(training["tokens_per_second"]), "tokens per second", note))
    return found


def _quality(training: dict[str, Any]) -> list[Tile]:
    points = training.get("held_out") or []
    if not points:
        return []
    entropy = training.get("unigram_entropy")
    note = "How much code it has never seen surprises the model; lower is better."
    if entropy is not None:
        note += f" Knowing only how often each token occurs gives {decimal(entropy)} (unigram entropy)."
    found = [Tile("Held-out loss", _change(points, "loss"), "nats per token", note, mood(points[-1]["loss"], entropy))]
    if points[-1].get("bits_per_byte") is not None:
        note = "The same, as the size to which the model could compress each byte of that code; plain text takes 8."
        found.append(Tile("Held-out size", _change(points, "bits_per_byte"), "bits per byte", note))
    return found


def _change(points: list[dict[str, Any]], key: str) -> str:
    ends = [points[0], points[-1]] if len(points) > 1 else points
    return " → ".join(decimal(point.get(key)) for point in ends)


def mood(loss: float | None, entropy: float | None) -> str:
    """Whether a model knows more than how frequent tokens are."""
    if loss is None or entropy is None:
        return ""
    return "good" if loss < entropy else "bad"


def proof(results: dict[str, Any]) -> Tile:
    """What was found when the export was compared with what was trained."""
    export = results.get("export")
    if not export:
        return Tile("Export", "None", "", "No Hugging Face model was written.", "bad")
    checks = export.get("checks") or []
    passed = sum(check.get("passed") is True for check in checks)
    if not checks:
        return Tile("Export", "Unchecked", "", "A Hugging Face model was written; nothing was compared.", "bad")
    note = f"{passed} of {len(checks)} checks that the Hugging Face model equals the trained one have passed."
    proven = passed == len(checks)
    return Tile("Export", "Proven" if proven else "Not proven", "", note, "good" if proven else "bad")


def layout(training: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of each way in which the work is spread over processes and that is in use."""
    values = (training or {}).get("layout") or {}
    used = [(key, value) for key, value in values.items() if value is True or (value and value not in (1, "none"))]
    return [(key.replace("_", " "), "on" if value is True else str(value), LAYOUT.get(key, "")) for key, value in used]


def model_facts(model: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of a model's shape."""
    names = {
        "parameters": ("parameters", "numbers that training adjusts"),
        "num_layers": ("layers", "one after the other"),
        "hidden_size": ("hidden size", "numbers that stand for a token between layers"),
        "num_attention_heads": ("attention heads", "each looks back at other tokens in its own way"),
        "num_query_groups": ("query groups", "heads of a group share their keys and values"),
        "ffn_hidden_size": ("feed-forward size", "width of the second half of a layer"),
        "vocab_size": ("vocabulary", "tokens it can read and write"),
    }
    known = [(key, *names[key]) for key in names if model.get(key) is not None]
    return [(name, count(model[key]), meaning) for key, name, meaning in known]
