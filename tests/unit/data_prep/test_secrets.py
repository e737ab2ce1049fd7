"""Secrets: found where they were planted and nowhere else, and replaced only where a selection says so."""

import itertools
import random
import string

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.annotations import write_table
from data_prep.annotators.secrets import KINDS, Secrets, entropy
from data_prep.build_part import selected_batches
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.redaction import redact, replacement
from data_prep.select import SelectionConfig, load_config, select
from data_prep.selection.config import REDACTED_KINDS
from data_prep.shards import ShardTask, finished_manifest, write_shard
from data_prep.texts import selected_texts


def letters(count, seed=0, alphabet=string.ascii_letters + string.digits):
    return "".join(random.Random(seed).choices(alphabet, k=count))


# Put together here so that no scanner takes this file for a leak.
UPPER = string.ascii_uppercase + string.digits
PLANTED = {
    "aws": ("key", "AK" + "IA" + letters(16, 1, UPPER)),
    "github": ("key", "gh" + "p_" + letters(36)),
    "github fine-grained": ("key", "github" + "_pat_" + letters(50)),
    "gitlab": ("key", "gl" + "pat-" + letters(20)),
    "slack": ("key", "xo" + "xb-" + letters(24, 2)),
    "google": ("key", "AI" + "za" + letters(35)),
    "stripe": ("key", "_live_" + letters(24)),
    "openai": ("key", "s" + "k-proj-" + letters(40)),
    "hugging face": ("key", "h" + "f_" + letters(34)),
    "npm": ("key", "np" + "m_" + letters(36)),
    "sendgrid": ("key", "S" + "G." + letters(22) + "." + letters(43, 3)),
    "jwt": ("key", "ey" + "J" + letters(20) + ".ey" + "J" + letters(30) + "." + letters(40)),
    "password": ("password", "hV7#kq9!x2Lm"),
    "url": ("password", "s3cr3tPa55"),
    "token": ("key", letters(32, 5, "0123456789abcdef")),
    "pem": ("private_key", "\n" + "\n".join(letters(64, i) for i in range(8)) + "\n"),
    "email": ("email", "jane.doe+code@corp-mail.co.uk"),
}
AROUND = {
    "stripe": "key = 'sk{}'\n",
    "password": 'DB_PASSWORD = "{}"\n',
    "url": "dsn = 'postgres://admin:{}@db.internal:5432/x'\n",
    "token": '  "api_key": "{}",\n',
    "pem": "-----BEGIN RSA PRIVATE KEY-----{}-----END RSA PRIVATE KEY-----\n",
    "email": "# Author: Jane <{}>\n",
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_found_exactly(name):
    kind, secret = PLANTED[name]
    before = "# größer İ ✓\nimport os\n"
    text = before + AROUND.get(name, 'KEY = "{}"\n').format(secret) + "print(os)\n"
    found = [(span.kind, text[span.start : span.end]) for span in Secrets().find(text)]
    assert found == [(kind, secret)]


@pytest.mark.parametrize(
    "text",
    [
        "password = os.environ['PASSWORD']\n",
        'password = "changeme"\npasswd = "your-password-here"\n',
        "token_type = 'quoted-string'\n",
        'secret = "${SECRET_FROM_ENV}"\n',
        "AKIA\nAKIAEXAMPLE\n",
        "sk-learn-contrib and task-management-tools-are-here\n",
        "git@github.com:owner/name.git\n",
        "@property\ndef x(self): return self@other\n",
        "someone@example.com root@localhost a@b\n",
        "https://example.com:8080/a@b and http://host/path:with@colon\n",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n",
        'API_KEY = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"\n',
        "x = '" + "0123456789abcdef" * 4 + "'\n",
        'sha256 = "' + letters(64, 1, "0123456789abcdef") + '"\n',
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    assert Secrets().find(text) == []


def test_settings():
    text = "a.person@corp.io\n" + AROUND["token"].format(PLANTED["token"][1])
    assert [span.kind for span in Secrets().find(text)] == ["email", "key"]
    assert [span.kind for span in Secrets(emails=False).find(text)] == ["key"]
    assert [span.kind for span in Secrets(minimum_entropy=5).find(text)] == ["email"]
    assert entropy("") == 0 and entropy("aaaa") == 0 and entropy("abcd") == 2
    assert set(KINDS) == set(REDACTED_KINDS)


HOSTILE = ("", "a" * 3_000_000, "@" * 300_000, "password=" * 100_000, "://" * 300_000, "a@b." * 100_000,
           "\ud800@x.yz\0", "-----BEGIN RSA PRIVATE KEY-----" * 30_000, "eyJ" * 300_000, "sk-" * 300_000,
           "token='" * 100_000)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_come_to_an_end(text):
    for span in Secrets().find(text):
        assert 0 <= span.start < span.end <= len(text)


pieces = st.sampled_from([AROUND.get(name, 'K = "{}"\n').format(secret) for name, (_, secret) in PLANTED.items()])


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.one_of(pieces, st.text(max_size=20)), max_size=12))
def test_spans_are_in_order_apart_and_redaction_removes_them(parts):
    text = "".join(parts)
    spans = Secrets().find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    redacted = redact(text, [span._asdict() for span in spans])
    kept, at = [], 0
    for span in spans:
        kept.append(text[at : span.start])
        at = span.end
        assert replacement(span.kind) in redacted
    kept.append(text[at:])
    assert redacted.replace("<", "").count("KEY>") >= sum(span.kind == "key" for span in spans)
    assert len(redacted) == sum(map(len, kept)) + sum(len(replacement(span.kind)) for span in spans)


@pytest.fixture
def corpus(tmp_path, files, take):
    content = {f"r{i}/f.py": f"x = {i}\n" for i in range(30)}
    content["r3/f.py"] = "# ü jane.doe@corp.io\n" + AROUND["password"].format(PLANTED["password"][1])
    content["r4/f.py"] = AROUND["token"].format(PLANTED["token"][1])
    take(files(tmp_path / "root", content), shard_bytes=150)
    return tmp_path / "corpus"


def texts(corpus, name):
    return {text for split in ("train", "held_out") for text in selected_texts(corpus, name, split)}


def test_texts_change_only_where_a_selection_says_so(corpus):
    with pytest.raises(DataError, match="redact needs the annotation secrets"):
        select(corpus, "clean", SelectionConfig(rules=(), redact=("email",)))
    (result,) = annotate(corpus, [AnnotatorSpec.of("secrets")])
    assert result["counts"] == {"spans": 2}
    plain = select(corpus, "plain", SelectionConfig(rules=()))
    email = select(corpus, "email", SelectionConfig(rules=(), redact=("email",)))
    every = select(corpus, "every", SelectionConfig(rules=(), redact=REDACTED_KINDS))
    assert len({plain["digest"], email["digest"], every["digest"]}) == 3
    assert any("jane.doe@corp.io" in text for text in texts(corpus, "plain"))
    password = PLANTED["password"][1]
    assert f'# ü <EMAIL>\nDB_PASSWORD = "{password}"\n' in texts(corpus, "email")
    assert '# ü <EMAIL>\nDB_PASSWORD = "<PASSWORD>"\n' in texts(corpus, "every")
    assert '  "api_key": "<KEY>",\n' in texts(corpus, "every")
    assert len(texts(corpus, "every")) == len(texts(corpus, "plain"))


def test_a_build_gets_redacted_texts_and_their_sizes(corpus):
    annotate(corpus, [AnnotatorSpec.of("secrets")])
    select(corpus, "every", SelectionConfig(rules=(), redact=REDACTED_KINDS))
    rows = []
    for shard in list_shards(corpus):
        for split in ("train", "held_out"):
            for table, found in selected_batches(shard, corpus / "selections/every" / shard.name, split):
                rows += table.append_column("text", pa.array(found)).to_pylist()
    assert {row["text"] for row in rows} == texts(corpus, "every")
    assert all(row["size_bytes"] == len(row["text"].encode()) for row in rows)
    originals = [row for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()]
    assert sum(row["text"] not in {r["text"] for r in rows} for row in originals) == 2


def test_a_document_that_was_not_searched_is_not_trained_on(corpus):
    annotate(corpus, [AnnotatorSpec.of("secrets")])
    shard = list_shards(corpus)[0]
    path = corpus / "annotations/secrets" / shard.name
    table, manifest = pq.read_table(path), finished_manifest(path)
    failed = pa.array(["timed out after 20 s"] + [None] * (table.num_rows - 1), pa.string())
    table = table.set_column(table.schema.get_field_index("failed"), "failed", failed)
    counters = {"documents_sha256": manifest["documents_sha256"]}
    write_shard(ShardTask(path, manifest["inputs"], write_table, (table, counters)))
    result = select(corpus, "clean", SelectionConfig(rules=(), redact=("email",)))
    assert [(step["rule"], step["documents"]) for step in result["dropped"]] == [("not_searched_for_secrets", 1)]
    assert len(texts(corpus, "clean")) == 29 and select(corpus, "plain", SelectionConfig(rules=()))["dropped"] == []


def test_redact_from_yaml(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_text("redact: [email, key]\n")
    assert load_config(path).redact == ("email", "key")
    path.write_text("redact: [emails]\n")
    with pytest.raises(DataError, match=r"redact\.0"):
        load_config(path)
