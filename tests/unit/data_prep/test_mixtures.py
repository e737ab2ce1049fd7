"""Mixtures: blends that a recipe takes as they are, and refusals of what does not add up."""

import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from data_prep.build import build
from data_prep.cli import app
from data_prep.errors import DataError
from data_prep.mixtures.builds import Build, find_builds
from data_prep.mixtures.plan import TOLERANCE, plan
from data_prep.mixtures.settings import MixtureConfig, load_config
from data_prep.mixtures.write import blend_of, table_of
from data_prep.select import SelectionConfig, select
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.data.held_out import check_data
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError

EXAMPLE = Path(__file__).parents[3] / "examples" / "mixtures.yaml"


def a_build(tokens: int = 1000, rate: float = 0.0, epoch: int = 0, name: str = "a", **changes) -> Build:
    facts = {
        "prefix": f"builds/{name}/train-fim{rate}-epoch{epoch}",
        "tokens": tokens,
        "documents": 10,
        "held_out": False,
        "rate": rate,
        "epoch": f"{epoch}:1234",
        "tokenizer": ("aa", 100),
        "selection": f"selection of {name}",
        "content": f"{name} {rate} {epoch}",
    }
    return Build(**facts | changes)


def config_of(phases: list[dict], *names: str, **categories: dict) -> MixtureConfig:
    known = {name: {"builds": f"builds/{name}"} | categories.get(name, {}) for name in names or ("a",)}
    return MixtureConfig.model_validate({"categories": known, "phases": phases})


def write_manifest(prefix: Path, tokens: int, rate: float, epoch: int, **changes) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    content = f"{prefix} {tokens}".encode()
    Path(f"{prefix}.bin").write_bytes(content)
    manifest = {
        "format": "megatron_seed.build/1",
        "name": prefix.name,
        "split": "train",
        "documents": 7,
        "tokens": tokens,
        "tokenizer": {"digest": "ab" * 32, "vocab_size": 155136, "eos_id": 2},
        "fim": {"rate": rate, "seed": 1234, "epoch": epoch},
        "selection": f"selection of {prefix.parent.name}",
        "files": {f"{prefix.name}.bin": {"size_bytes": len(content), "sha256": str(prefix)}},
    }
    Path(f"{prefix}.manifest.json").write_text(json.dumps(manifest | changes))


@pytest.fixture
def report_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Manifests of builds of the report's sizes, where the example config looks for them."""
    monkeypatch.chdir(tmp_path)
    sizes = {
        "code_web": 12 * 10**11,
        "math_web": 3 * 10**11,
        "github": 10**12 - 12345,
        "repositories": 2 * 10**11,
        "commits": 10**11,
        "high_quality": 13 * 10**10,
        "long_files": 8 * 10**10,
    }
    for name, tokens in sizes.items():
        for rate, epochs in ((0.0, 1), (0.1, 2), (0.5, 4)):
            for epoch in range(epochs):
                place = tmp_path / "data" / "builds" / name / f"train-fim{rate}-epoch{epoch}"
                write_manifest(place, tokens + epoch, rate, epoch)
    return tmp_path


RECIPES = {
    "seed_coder_8b/pretrain": ("web", "code"),
    "seed_coder_8b/continue": ("high_quality", "long_context"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shipped_example_makes_blends_that_the_recipes_take(report_builds: Path, recipe: str) -> None:
    result = CliRunner().invoke(app, ["mixtures", str(EXAMPLE), "mixtures"])
    assert result.exit_code == 0, result.output
    names = RECIPES[recipe]
    changes = [f"phases.{name}.blend=mixtures/{name}/blend.yaml" for name in names]
    before, after = load_recipe(recipe), load_recipe(recipe, changes)
    for plain, phase, name in zip(before.phases, after.phases, names, strict=True):
        assert (phase.name, phase.tokens, phase.fim) == (name, plain.tokens, plain.fim)
        written = yaml.safe_load((report_builds / "mixtures" / name / "blend.yaml").read_text())
        assert [source.model_dump(mode="json", exclude_none=True) for source in phase.blend] == written
        assert sum(source.weight for source in phase.blend) == pytest.approx(1)
    if recipe == "seed_coder_8b/pretrain":
        assert [source.weight for source in after.phases[0].blend] == [0.8, 0.2]
        assert after.phases[1].blend[0].builds == before.phases[1].blend[0].builds
    kept = report_builds / "kept.yaml"  # what a run folder holds needs the blend files no more
    kept.write_text(dump_recipe(after))
    for file in (report_builds / "mixtures").rglob("blend.yaml"):
        file.unlink()
    assert load_recipe(kept) == after


def test_epochs_and_budget_that_disagree_are_settled_by_fill(report_builds: Path) -> None:
    assert CliRunner().invoke(app, ["mixtures", str(EXAMPLE), "mixtures"]).exit_code == 0
    numbers = json.loads((report_builds / "mixtures" / "mixtures.json").read_text())
    for phase in numbers["phases"]:
        assert sum(entry["tokens"] for entry in phase["blend"]) == phase["tokens"]
    (code,) = numbers["phases"][1]["blend"]
    assert code["tokens"] == 4 * 10**12
    assert code["epochs"] == pytest.approx(4, abs=1e-6)
    anneal = {entry["name"]: entry for entry in numbers["phases"][2]["blend"]}
    assert anneal["github"]["tokens"] == 400 * 10**9 - round(0.45 * 400e9) - 130 * 10**9
    assert anneal["github"]["epochs_before"] == pytest.approx(4, abs=1e-6)
    assert [entry["fim"] for entry in numbers["phases"][2]["blend"]] == [0.1, 0.1, 0.0, 0.0, 0.0, 0.1]


@given(
    st.lists(st.integers(1, 10**13), min_size=1, max_size=5),
    st.integers(10**3, 10**13),
    st.data(),
)
def test_shares_become_weights_and_the_filler_takes_the_rest(sizes: list[int], budget: int, data) -> None:
    names = [f"c{number}" for number in range(len(sizes) + 1)]
    cuts = [data.draw(st.floats(0.001, 0.9 / len(sizes))) for _ in sizes]
    amounts = {name: {"share": share} for name, share in zip(names, cuts, strict=False)} | {names[-1]: {}}
    config = config_of([{"name": "p", "tokens": budget, "blend": amounts, "fill": names[-1]}], *names)
    found = {name: [a_build(tokens, name=name)] for name, tokens in zip(names, [*sizes, 1000], strict=True)}
    planned = plan(config, found)
    assert not planned.problems
    (phase,) = planned.phases
    assert sum(entry.tokens for entry in phase.entries) == budget
    for entry, share in zip(phase.entries, cuts, strict=False):
        assert entry.share == pytest.approx(share, abs=1 / budget)
        assert entry.epochs == pytest.approx(share * budget / entry.epoch_tokens, abs=1 / entry.epoch_tokens)


@given(st.integers(100, 10**12), st.floats(0.1, 8), st.integers(1, 8))
def test_each_epoch_that_is_split_needs_a_build_of_its_own(tokens: int, epochs: float, there: int) -> None:
    config = config_of([{"name": "p", "fim": 0.5, "blend": {"a": {"epochs": epochs}}}])
    builds = [a_build(tokens, 0.5, epoch) for epoch in range(there)]
    planned = plan(config, {"a": list(reversed(builds))})
    (entry,) = planned.phases[0].entries
    assert entry.tokens == planned.phases[0].tokens == round(epochs * tokens)
    needed = there + entry.missing if entry.missing else len(entry.builds)
    # The next whole number, give or take rounding to whole tokens.
    assert needed - 1 - TOLERANCE - 1 / tokens <= epochs <= needed + TOLERANCE + 1 / tokens
    assert [b.prefix for b in entry.builds] == [b.prefix for b in builds[: len(entry.builds)]]
    assert bool(planned.problems) == (needed > there)
    if planned.problems:
        assert f"--fim-rate 0.5 --epochs {needed}" in planned.problems[0]


def test_whole_documents_need_one_build_however_often_they_are_read() -> None:
    planned = plan(config_of([{"name": "p", "blend": {"a": {"epochs": 7}}}]), {"a": [a_build()]})
    assert not planned.problems
    assert blend_of(planned.phases[0]) == [
        {"name": "a", "builds": ["builds/a/train-fim0.0-epoch0"], "weight": 1.0, "fim": 0.0}
    ]


def test_loss_on_targets_is_said_where_the_builds_record_them(tmp_path: Path) -> None:
    write_manifest(tmp_path / "c" / "train-fim0.0-epoch0", 10, 0.0, 0, loss={"on": "target", "tokens": 3})
    (phase,) = plan(config_of([ONE]), {"a": find_builds("a", [str(tmp_path / "c")])}).phases
    assert blend_of(phase)[0]["loss"] == "target"


def test_epochs_of_phases_that_follow_each_other_add_up() -> None:
    """A source goes on where it stood, so two phases of 0.7 epochs reach into a second epoch."""
    phases = [{"name": name, "fim": 0.5, "blend": {"a": {"epochs": 0.7}}} for name in ("p", "q")]
    planned = plan(config_of(phases), {"a": [a_build(rate=0.5)]})
    assert "1.4 epochs" in planned.problems[0] and "need 2 builds" in planned.problems[0]
    planned = plan(config_of(phases), {"a": [a_build(rate=0.5), a_build(rate=0.5, epoch=1)]})
    assert not planned.problems
    assert [len(phase.entries[0].builds) for phase in planned.phases] == [2, 2]  # the same list: places stay the same
    assert planned.phases[1].entries[0].before == pytest.approx(0.7)


ONE_CATEGORY = "categories: {a: {builds: x}}"
ONE = {"name": "p", "tokens": 1000, "blend": {"a": {"share": 1}}}


@pytest.mark.parametrize(
    ("config", "found", "message"),
    [
        (
            config_of([ONE | {"fim": 0.5}]),
            {"a": [a_build(rate=0.1)]},
            "its builds have 0.1; make some",
        ),
        (
            config_of([ONE | {"fim": 0.5}]),
            {"a": [a_build(on_target=True)]},
            "its builds have 0; documents with targets are not split: say fim: 0 for category a",
        ),
        (
            config_of([ONE | {"blend": {"a": {"share": 0.5}}}]),
            {"a": [a_build()]},
            "500 of 1,000 tokens (a 500)",
        ),
        (config_of([ONE | {"blend": {"a": {"epochs": 2}}}]), {"a": [a_build()]}, "(fill: a), or leave tokens out"),
        (config_of([ONE | {"tokens": None}]), {"a": [a_build()]}, "nothing but shares says how long it is"),
        (
            config_of([ONE | {"blend": {"a": {"epochs": 1}, "b": {}}, "fill": "b"}], "a", "b"),
            {"a": [a_build()], "b": [a_build(name="b")]},
            "take 1,000 of 1,000 tokens, and leave none for b",
        ),
        (config_of([ONE], a={"max_epochs": 0.5}), {"a": [a_build()]}, "read it 1 times, and max_epochs is 0.5"),
        (
            config_of([ONE | {"blend": {"a": {"share": 0.5}, "b": {"share": 0.5}}}], "a", "b"),
            {"a": [a_build()], "b": [a_build(name="b", tokenizer=("bb", 100))]},
            "were made with different tokenizers (aa and bb)",
        ),
        (
            config_of([ONE | {"blend": {"a": {"share": 0.5}, "b": {"share": 0.5}}}], "a", "b"),
            {"a": [a_build()], "b": [a_build(name="b", selection="selection of a")]},
            "a and b are builds of the same documents",
        ),
    ],
)
def test_what_does_not_add_up_is_a_problem(config: MixtureConfig, found: dict, message: str) -> None:
    planned = plan(config, found)
    assert any(message in problem for problem in planned.problems), planned.problems
    assert "\n" not in "".join(planned.problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML"),
        ("- a", "a mapping with categories, phases is expected"),
        (ONE_CATEGORY, "phases is needed"),
        ("{categories: {}, phases: [], max_epochs: 1}", "a key of another section; here: categories, phases"),
        ("{categories: {a: {builds: x, fimm: 0}}, phases: []}", "no key 'categories.a.fimm'; did you mean 'fim'?"),
        (
            f"{ONE_CATEGORY}\nphases: [{{name: p, blend: {{a: {{epoch: 1}}}}}}]",
            "a.epoch'; did you mean 'epochs'?",
        ),
        (f"{ONE_CATEGORY}\nphases: [{{name: p, blend: {{b: {{share: 1}}}}}}]", "phase p: no category 'b'"),
        (
            f"{ONE_CATEGORY}\nphases: [{{name: p, blend: {{a: {{share: 1, epochs: 1}}}}}}]",
            "epochs or share, not both",
        ),
        (f"{ONE_CATEGORY}\nphases: [{{name: p, blend: {{a: }}}}]", "a: give epochs, or share, or fill: a"),
        (f"{ONE_CATEGORY}\nphases: [{{name: p, blend: {{a: }}, fill: b}}]", "fill: b is not in its blend"),
        (f"{ONE_CATEGORY}\nphases: [{{name: ../p, blend: {{a: {{share: 1}}}}}}]", "phases.0.name"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mixtures.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as refusal:
        load_config(path)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_names_are_whole_in_a_narrow_terminal_and_small_numbers_are_not_nought() -> None:
    phases = [{"name": "long_context", "tokens": 5, "blend": {"github": {}, "repositories": {"share": 0.5}}}]
    found = {"github": [a_build(tokens=600)], "repositories": [a_build(tokens=600, name="r")]}
    console = Console(width=80, file=io.StringIO())
    console.print(table_of(plan(config_of([phases[0] | {"fill": "github"}], *found), found)))
    lines = console.file.getvalue().splitlines()
    (row,) = [line for line in lines if "repositories" in line]
    assert "0.0033" in row and any("long_context" in line for line in lines) and max(map(len, lines)) <= 80


def test_what_cannot_be_computed_is_not_shown_as_nought() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(table_of(plan(config_of([ONE | {"fim": 0.5}]), {"a": [a_build()]})))
    (row,) = [line for line in console.file.getvalue().splitlines() if "100 %" in line]
    assert row.split() == ["p", "a", "100", "%", *"––––", "0.5", "0", "(+", "1", "missing)"]


def test_tokens_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    path = tmp_path / "mixtures.yaml"
    path.write_text(f"{ONE_CATEGORY}\nphases: [{{name: p, tokens: 4e12, blend: {{a: {{share: 1}}}}}}]")
    assert load_config(path).phases[0].tokens == 4 * 10**12


def test_builds_that_nothing_may_train_on(tmp_path: Path) -> None:
    write_manifest(tmp_path / "g" / "held_out-fim0.0-epoch0", 10, 0.0, 0, split="held_out")
    with pytest.raises(DataError, match="no builds to train on; make them: megatron-seed data build"):
        find_builds("g", [str(tmp_path / "g")])
    with pytest.raises(DataError, match="is held out, so nothing may train on it"):
        find_builds("g", [str(tmp_path / "g" / "held_out-fim0.0-epoch0.bin")])
    write_manifest(tmp_path / "g" / "train-fim0.0-epoch0", 10, 0.0, 0)
    assert [build.prefix for build in find_builds("g", [f"{tmp_path}/g/"])] == [f"{tmp_path}/g/train-fim0.0-epoch0"]
    sha256 = {"sha256": "same", "size_bytes": len(f"{tmp_path}/g/train-fim0.0-epoch1 10")}
    write_manifest(
        tmp_path / "g" / "train-fim0.0-epoch1", 10, 0.0, 1, files={"train-fim0.0-epoch1.bin": sha256}
    )  # equal to the other, as `data build --fim-rate 0 --epochs 2` makes them
    assert len(find_builds("g", [str(tmp_path / "g")])) == 2
    write_manifest(tmp_path / "h" / "train-fim0.0-epoch0", 10, 0.0, 0)
    with pytest.raises(DataError, match="different selections"):
        find_builds("g", [f"{tmp_path}/g", f"{tmp_path}/h"])
    with pytest.raises(DataError, match="the same build"):
        find_builds("g", [f"{tmp_path}/g", f"{tmp_path}/g/train-fim0.0-epoch0"])
    write_manifest(tmp_path / "g" / "train-fim0.5-epoch0", 10, 0.5, 0, loss={"on": "target"})
    with pytest.raises(DataError, match=r"has loss on targets alone, and .* has not"):
        find_builds("g", [str(tmp_path / "g")])
    (tmp_path / "g" / "train-fim0.5-epoch0.manifest.json").unlink()
    (tmp_path / "g" / "train-fim0.0-epoch0.bin").write_bytes(b"")
    with pytest.raises(DataError, match="has 0 bytes, and its manifest says"):
        find_builds("g", [str(tmp_path / "g")])


@pytest.mark.parametrize("rubbish", [b"", b"[]", b"{", b"\xff\xfe", b'{"format": "megatron_seed.build/1"}'])
def test_rubbish_in_place_of_a_manifest(tmp_path: Path, rubbish: bytes) -> None:
    (tmp_path / "a.manifest.json").write_bytes(rubbish)
    with pytest.raises(DataError, match="not the manifest of a build"):
        find_builds("a", [str(tmp_path / "a")])
    with pytest.raises(DataError, match="no build there"):
        find_builds("a", [str(tmp_path / "b")])


def test_nothing_is_written_when_something_is_missing(report_builds: Path) -> None:
    for path in (report_builds / "data" / "builds" / "github").glob("train-fim0.5-epoch[123]*"):
        path.unlink()
    result = CliRunner().invoke(app, ["mixtures", str(EXAMPLE), "mixtures"])
    assert isinstance(result.exception, DataError)
    assert "github: 4 epochs" in str(result.exception) and "--epochs 4" in str(result.exception)
    assert "3 missing" in result.output
    assert not (report_builds / "mixtures").exists()


BLEND = "- {name: code, builds: data/code, weight: 1}\n"
RECIPE = """\
name: small
run_dir: runs/small
model: {preset: seed_coder_tiny}
phases:
  - name: main
    tokens: 1e6
    learning_rate: 3e-4
    blend: blend.yaml
    sequence_length: 64
    global_batch_size: 8
"""


def test_a_recipe_that_names_a_blend_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    with pytest.raises(SeedError, match=r"phases\.0\.blend: there is no file blend\.yaml"):
        load_recipe("r.yaml")
    Path("blend.yaml").write_text(BLEND)
    assert load_recipe("r.yaml", ["phases.0.blend.0.weight=3"]).phases[0].blend[0].weight == 3
    assert load_recipe("r.yaml", ["phases.main.blend.code.weight=3"]).phases[0].blend[0].weight == 3
    with pytest.raises(SeedError, match=r"there is no place 'phases\.mane\.tokens'"):
        load_recipe("r.yaml", ["phases.mane.tokens=3"])
    for text, message in (
        (
            BLEND + "- {name: b, builds: x, wait: 1}\n",
            "blend.yaml:2: unknown key phases.0.blend.1.wait; did you mean weight?",
        ),
        ("", "a blend is a list of sources, this is NoneType"),
        ("a: [", "blend.yaml: not YAML"),
        ("[]", "phases.0.blend"),
    ):
        Path("blend.yaml").write_text(text)
        with pytest.raises(SeedError) as refusal:
            load_recipe("r.yaml")
        assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.fixture
def real_builds(take, files, tmp_path: Path, tokenizer_dir: Path) -> dict[str, Path]:
    """Builds of two selections of one corpus: all of it, and the Python files of it, each with a held-out side."""
    texts = {f"r{n}/{name}": f"{name} {n}\n" * 5 for n in range(30) for name in ("a.py", "b.go")}
    take(files(tmp_path / "src", texts))
    found = {}
    for name, languages in (("everything", None), ("python", ["Python"])):
        config = {"rules": [], "held_out": {"fraction": 0.2, "seed": 7}} | (
            {"languages": languages} if languages else {}
        )
        select(tmp_path / "corpus", name, SelectionConfig.model_validate(config))
        for split in ("train", "held_out"):
            build(tmp_path / "corpus", name, tokenizer_dir, tmp_path / name, split, [0.0], [0], 1234, 1)
        found[name] = tmp_path / name
    return found


def test_a_run_takes_the_blend_of_real_builds(
    real_builds: dict[str, Path], tmp_path: Path, tokenizer_dir: Path
) -> None:
    """The checks of a run's start, on what was written: builds, rates, tokenizer."""
    config = tmp_path / "mixtures.yaml"
    categories = {name: {"builds": str(path)} for name, path in real_builds.items()}
    shares = {"everything": {"share": 0.25}, "python": {"share": 0.75}}
    config.write_text(
        yaml.safe_dump({"categories": categories, "phases": [{"name": "p", "tokens": 999, "blend": shares}]})
    )
    result = CliRunner().invoke(app, ["mixtures", str(config), str(tmp_path / "out")])
    assert "phases.p.blend=" in result.output and "phases.p.tokens=999" in result.output
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("64", "8").replace("seed_coder_tiny", "seed_coder_tiny, vocab_size: 383"))
    changes = [f"phases.0.blend={tmp_path}/out/p/blend.yaml", "phases.0.tokens=999", f"tokenizer={tokenizer_dir}"]
    with pytest.raises(SeedError, match=r"no file blend\.yaml"):
        load_recipe(recipe, changes)
    recipe.write_text(recipe.read_text().replace("blend: blend.yaml", "blend: []"))
    loaded = load_recipe(recipe, changes)
    check_data(loaded)
    data = PhaseData.open(loaded.phases[0], 1, 383, {})
    assert [data.blend.counts(400)[i] for i in (0, 1)] == [100, 300]
    with pytest.raises(SeedError, match=r"at rate 0\.0, but the phase asks for fim: 0\.5"):
        check_data(load_recipe(recipe, [*changes, "phases.0.blend.1.fim=0.5"]))


def test_documents_in_two_categories_are_counted_and_held_out_repositories_refused(
    real_builds: dict[str, Path], tmp_path: Path, tokenizer_dir: Path
) -> None:
    config = tmp_path / "mixtures.yaml"
    shares = {"everything": {"share": 0.5}, "python": {"share": 0.5}}
    phases = [{"name": "p", "tokens": 10**6, "blend": shares}]
    categories = {name: {"builds": str(path)} for name, path in real_builds.items()}
    config.write_text(yaml.safe_dump({"categories": categories, "phases": phases}))
    result = CliRunner().invoke(app, ["mixtures", str(config), str(tmp_path / "out"), "--check-documents"])
    assert result.exit_code == 0, result.output
    python = json.loads((real_builds["python"] / "train-fim0.0-epoch0.manifest.json").read_text())["documents"]
    assert f"everything and python share {python} documents, 100 % of the smaller" in result.output
    # A selection that holds nothing out trains on what the other holds out.
    select(tmp_path / "corpus", "loose", SelectionConfig.model_validate({"rules": [], "held_out": {"fraction": 0}}))
    build(tmp_path / "corpus", "loose", tokenizer_dir, tmp_path / "loose", "train", [0.0], [0], 1234, 1)
    categories["everything"]["builds"] = str(tmp_path / "loose")
    config.write_text(yaml.safe_dump({"categories": categories, "phases": phases}))
    result = CliRunner().invoke(app, ["mixtures", str(config), str(tmp_path / "new"), "--check-documents"])
    assert "of its documents are of repositories that are held out" in str(result.exception)
    assert not (tmp_path / "new" / "p").exists()
