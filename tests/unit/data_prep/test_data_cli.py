"""The `data` commands and the report behind `inspect`."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from data_prep.cli import app
from data_prep.errors import DataError
from data_prep.report import corpus_report
from data_prep.texts import selected_texts


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def root(tmp_path, files):
    content = {f"r{i:02d}/{name}": f"# {i % 20} {name}\nx = 1\n" for i in range(30) for name in ("a.py", "b.rb")}
    return files(tmp_path / "root", {**content, "r00/c.txt": "words", "r01/d.py": b"\xff"})


def test_import_dedup_select_inspect(tmp_path, root):
    corpus = tmp_path / "corpus"
    assert "60 documents" in run("import", corpus, f"code={root}", "--workers", "1")
    assert "20 of 60 documents are exact duplicates" in run("dedup", corpus, "--exact")
    with pytest.raises(DataError, match=r"near_duplicate.*`data dedup`"):
        run("select", corpus)
    shown = run("dedup", corpus)
    for text in (
        "20 of 60 documents",
        "near duplicates",
        "GB per TB",
        "repositories are nearly equal",
        "repositories are nearly equal",
        "0.70: 0.99",
    ):
        assert text in shown
    assert "of 60" in run(
        "select", corpus, "--language", "Python", "--held-out", "0.3", "--rule", "tiny=size_bytes < 3"
    )
    shown = run("inspect", corpus)
    for text in ("code", "not_utf8", "exact_duplicate", "held_out", "Python", "r00"):
        assert text in shown
    report = json.loads(run("inspect", corpus, "--json"))
    assert report == corpus_report(corpus, "main")
    assert report["import"]["drops"]["not_utf8"]["examples"] == ["r01/d.py"]
    assert [step["rule"] for step in report["selection"]["dropped"]] == [
        "language",
        "exact_duplicate",
        "near_duplicate",
        "tiny",
    ]
    assert len(report["repositories"]) == 20 == len({entry["repository"] for entry in report["repositories"]})
    assert {entry["split"] for entry in report["repositories"]} <= {"train", "held_out"}


def test_inspect_before_anything_is_selected(tmp_path, root):
    corpus = tmp_path / "corpus"
    run("import", corpus, root, "--workers", "1")
    report = corpus_report(corpus)
    assert report["selection"] is None
    assert report["repositories"][0]["documents"] == 2
    assert "Languages" in run("inspect", corpus)


def test_a_tokenizer_is_trained_on_the_training_side_alone(tmp_path, files):
    sign = {f"r{i:02d}": chr(0x4E00 + i) for i in range(40)}  # what only this repository holds
    code = {f"{name}/a.py": "".join(f"{sign[name]} = w{hash_of(name, i)}\n" for i in range(40)) for name in sign}
    corpus, tokenizer = tmp_path / "corpus", tmp_path / "tokenizer"
    run("import", corpus, files(tmp_path / "root", code), "--workers", "1")
    config = tmp_path / "selection.yaml"
    config.write_text("rules: []\nheld_out: {fraction: 0.4}\n")
    run("select", corpus, "--config", config)
    assert run("tokenizer", corpus, tokenizer, "--vocab-size", "600") == f"{tokenizer}: sentencepiece, 600 ids\n"
    learnt = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    trained_on = {text[0] for text in selected_texts(corpus, "main", "train")}
    assert 0 < len(trained_on) < 40
    assert {character for character in sign.values() if character in learnt} == trained_on


def hash_of(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:6]


def test_what_is_wrong_is_a_data_error(tmp_path, root):
    with pytest.raises(DataError, match="neither a corpus nor a build"):
        run("inspect", tmp_path / "corpus")
    with pytest.raises(DataError, match="KEY=VALUE"):
        run("select", tmp_path / "corpus", "--rule", "no-sql")
    with pytest.raises(DataError, match="engine 'cloud': it must be one of local, slurm, ray"):
        run("build", tmp_path / "corpus", tmp_path / "out", "--tokenizer", tmp_path, "--engine", "cloud")
    with pytest.raises(DataError, match="there is no selection 'main'"):
        run("tokenizer", tmp_path / "corpus", tmp_path / "out", "--vocab-size", "800")


@pytest.mark.parametrize(
    "words",
    [("oracle", "estimate", "s3://bucket/corpus", "name"), ("score", "apply", "s3://bucket/corpus", "module:function")],
)
def test_what_needs_a_disk_says_so_and_makes_no_folder(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 2
    assert "needs a disk" in result.output
    assert list(tmp_path.iterdir()) == []


def commands(group=None, name=()):
    """(words, click command) of every command below `data`."""
    for word, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*name, word))
        else:
            yield (*name, word), command


def test_options_are_called_the_same_in_all_commands():
    found = {name: {option for one in command.params for option in one.opts} for name, command in commands()}
    assert {"--set", "--config"} <= found["mixtures",] | found["commits",] and len(found) > 20
    for name, options in found.items():
        assert not options & {"--html", "--into", "--output", "--report"}, name
        # `classify check` and the like read a file by itself; all others let a key be changed without one.
        takes_file = "--config" in options or name == ("mixtures",)
        assert not takes_file or "--set" in options, name


SET = {
    "commits": (["CORPUS", "ROOT"], "sample.format", "nothing", "sample.format: .*'unified_diff'"),
    "web": (["CORPUS", "ROOT"], "records.max_ratios", "3", "did you mean 'max_ratio'"),
    "dedup": (["CORPUS"], "recal", "0.9", "did you mean 'recall'"),
    "select": (["CORPUS"], "held_out", "3", "held_out: .*"),
    "select rules": (["CORPUS"], "rules", "3", "rules: Input should be a valid list"),
    "oracle run": (
        ["CORPUS", "main", "--url", "http://127.0.0.1:1/v1", "--model", "m"],
        "request.temperature",
        "hot",
        "temperature",
    ),
    "mixtures": (["MIXTURES", "OUT"], "categories.github.fim", "7", "categories.github.fim"),
    "subset": (["CORPUS", "--config", "SUBSET"], "rounds", "0", "rounds: .*greater"),
}


@pytest.mark.parametrize("command", SET)
def test_a_setting_can_be_changed_without_a_file(command, tmp_path, root):
    words, key, value, said = SET[command]
    shipped = Path(__file__).parents[3] / "examples"
    places = {"CORPUS": tmp_path / "corpus", "ROOT": root, "OUT": tmp_path / "out"}
    places |= {"MIXTURES": shipped / "mixtures.yaml", "SUBSET": shipped / "high_quality.yaml"}
    with pytest.raises(DataError, match=said) as error:
        run(
            *command.removesuffix(" rules").split(),
            *(places.get(word, word) for word in words),
            "--set",
            f"{key}={value}",
        )
    assert "\n" not in str(error.value)


def test_an_option_is_stronger_than_set_and_that_than_the_file(tmp_path, root):
    corpus, file = tmp_path / "corpus", tmp_path / "select.yaml"
    file.write_text("variant: null\nrules: []\nheld_out: {fraction: 0.5, seed: 3}\nlanguages: [Ruby]\n")
    run("import", corpus, f"code={root}", "--workers", "1")
    changes = ("--set", "held_out.seed=4", "--set", "languages=[Python]", "--set", "rules=[{name: a, drop: 'false'}]")
    run("select", corpus, "--config", file, *changes, "--held-out", "0.25", "--rule", "b=false")
    made = json.loads((corpus / "selections/main/selection.json").read_text())["config"]
    assert [rule["name"] for rule in made["rules"]] == ["a", "b"]
    assert made["held_out"] | {"fraction": 0.25, "seed": 4} == made["held_out"] and made["languages"] == ["Python"]


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from data_prep.cli import app\n"
        "for command in ([], ['import'], ['dedup'], ['select'], ['build'], ['inspect']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "print({'duckdb', 'pyarrow', 'pygit2', 'numpy', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("dropped", ["app/[id]/page.py", "a[/b].py"])
def test_names_are_shown_as_they_are(tmp_path, files, monkeypatch, dropped):
    """Neither markup nor the terminal's own signs are made of them."""
    monkeypatch.setenv("COLUMNS", "300")
    names = ["one[x]/a.py", "two:smile:/a.py", "three\x1b[2J/a.py"]
    corpus = tmp_path / "corpus"
    code = {**dict.fromkeys(names, "x = 1\n"), f"four/{dropped}": b"\xff"}
    run("import", corpus, files(tmp_path / "root", code), "--workers", "1")
    shown = run("inspect", corpus)
    for text in ("one[x]", "two:smile:", f"four/{dropped}"):
        assert text in shown
    assert "\x1b" not in shown
