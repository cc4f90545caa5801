"""Words with tags and questions with answers, from files of every format to examples; bad ones in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcache.core.errors import ConfigError, DataError
from kdcache.data.read import read_split
from kdcache.data.spec import load_spec

NER = {"name": "n", "task": "ner", "labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]}
QA = {
    "name": "q",
    "task": "qa",
    "columns": {"question": "question", "context": "context", "answers": "answers", "id": "id"},
}
CONLL = {**NER, "columns": {"words": 1, "tags": "last"}}
CONTEXT = "Anna lives in Rome."
ANSWERS = {"text": ["Rome", "in Rome"], "answer_start": [14, 11]}


def read(folder: Path, tree: dict[str, Any], name: str, content: str | bytes, **change):
    """The examples of a split that one file holds."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_split(load_spec({**tree, "files": {"train": str(path)}, **change}), "train")


def refused(folder: Path, tree: dict[str, Any], name: str, content: str | bytes, **change) -> str:
    """The one line that such a split is refused with; the file's path is PATH."""
    with pytest.raises(DataError) as error:
        read(folder, tree, name, content, **change)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(folder / name), "PATH")


def record(**change) -> dict[str, Any]:
    """A record of a question, as the Hub and Parquet hold it."""
    return {"id": "1", "question": "where?", "context": CONTEXT, "answers": ANSWERS, **change}


# --- CoNLL columns


def test_conll_columns_become_sentences_in_iob2(tmp_path: Path):
    text = "-DOCSTART- -X- O\n\nAnna NNP I-PER\nBerg NNP I-PER\nBen NNP B-PER\n\n\nsaw VBD O\r\n Rome NNP I-LOC\n"
    examples = read(tmp_path, CONLL, "a.conll", text)
    assert [example.fields for example in examples] == [
        {"words": ["Anna", "Berg", "Ben"], "tags": ["B-PER", "I-PER", "B-PER"]},
        {"words": ["saw", "Rome"], "tags": ["O", "B-LOC"]},
    ]
    assert [example.uid for example in examples] == ["train-0", "train-1"]
    kept = read(tmp_path, CONLL, "a.conll", text, conll={"docstart": "keep"})
    assert kept[0].fields == {"words": ["-DOCSTART-"], "tags": ["O"]}
    assert len(kept) == 3
    middle = read(
        tmp_path, {**CONLL, "labels": ["-X-", "NNP", "VBD"]}, "a.conll", text, columns={"words": 1, "tags": 2}
    )
    assert middle[1].fields["tags"] == ["VBD", "NNP"]


def test_tabs_allow_spaces_in_words_and_comments_are_left_out(tmp_path: Path):
    text = "# id 1 2\nNew York\tB-LOC\n#\tO\n\n# id 2 3\nAnna\tB-PER\n"
    options = {"separator": "tab", "comment": "# id"}
    examples = read(tmp_path, CONLL, "a.tsv", text, format="conll", conll=options)
    assert [example.fields["words"] for example in examples] == [["New York", "#"], ["Anna"]]


def test_a_split_without_tags_needs_no_column_of_tags(tmp_path: Path):
    (example,) = read(tmp_path, CONLL, "a.conll", "Anna\nsaw\n", unlabelled=["train"])
    assert example.fields == {"words": ["Anna", "saw"]}


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (
            "Anna B-PER\nsaw\n",
            {},
            "line 2 of PATH has 1 columns, line 1 has 2; correct it, set conll.separator: tab if words hold spaces, or "
            "conll.comment to how comment lines begin",
        ),
        (
            "Anna B-ORG\n",
            {},
            "word 0 of the sentence at line 1 of PATH has the label 'B-ORG' in the column 'last'; known: O (0), B-PER "
            "(1), I-PER (2), B-LOC (3), I-LOC (4); correct labels, or add a label_map",
        ),
        (
            "Anna B-PER\n",
            {"columns": {"words": 1, "tags": 4}},
            "PATH has no column '4' for tags; columns there: 1, 2, last; or list train under unlabelled",
        ),
        ("\n\n", {}, "PATH has no rows; a split needs at least one example"),
        ("-DOCSTART- O\n\n", {}, "PATH has no rows; a split needs at least one example"),
        (
            "Anna I-PER\n",
            {"scheme": "iob2"},
            "word 0 of the sentence at line 1 of PATH has the tag 'I-PER' where an entity begins, which IOB2 writes "
            "with B-; correct it, or set scheme: iob1",
        ),
        (
            "Jos\u00e9 B-PER\n".encode("latin-1"),
            {},
            "PATH is not utf-8 text (byte 0xe9: invalid continuation byte); set encoding, e.g. encoding: latin-1, or "
            "convert the file",
        ),
    ],
)
def test_bad_columns_are_refused_in_one_line(tmp_path: Path, text, change, message: str):
    assert refused(tmp_path, CONLL, "a.conll", text, **change) == message


# --- lists of words

LISTS = {**NER, "columns": {"words": "tokens", "tags": "tags", "id": "id"}}


def test_lists_of_words_with_names_or_numbers_of_tags(tmp_path: Path):
    records = [
        {"id": 1, "tokens": ["Anna", "Berg"], "tags": ["B-PER", "I-PER"]},
        {"id": 2, "tokens": ["in", "Rome"], "tags": [0, 3]},
        {"id": 3, "tokens": ["x"], "tags": None},
    ]
    examples = read(tmp_path, LISTS, "a.jsonl", "\n".join(map(json.dumps, records)))
    assert [example.fields.get("tags") for example in examples] == [["B-PER", "I-PER"], ["O", "B-LOC"], None]
    pq.write_table(pa.Table.from_pylist(records[:1]), tmp_path / "b.parquet")
    assert read(tmp_path, LISTS, "b.parquet", (tmp_path / "b.parquet").read_bytes())[0].fields == examples[0].fields
    mapped = read(tmp_path, LISTS, "a.jsonl", json.dumps(records[0]), label_map={"I-PER": "B-PER"})
    assert mapped[0].fields["tags"] == ["B-PER", "B-PER"]


def test_records_without_words_are_left_out_where_the_yaml_says_so(tmp_path: Path):
    text = '{"id": 1, "tokens": [], "tags": []}\n{"id": 2, "tokens": ["x"], "tags": ["O"]}\n'
    assert [example.uid for example in read(tmp_path, LISTS, "a.jsonl", text, drop_empty=True)] == ["2"]
    assert refused(tmp_path, LISTS, "a.jsonl", text.splitlines()[0], drop_empty=True) == (
        "PATH has no record that is not empty; a split needs at least one example"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ["O"]}, "line 1 of PATH has 2 words and 1 tags; each word has one tag"),
        ({"tags": "O O"}, "line 1 of PATH has 'O O' in the column 'tags'; it must be a list with one tag a word"),
        ({"tags": ["O", None]}, "word 1 of line 1 of PATH has no tag in the column 'tags'; tag all words, or none"),
        (
            {"tokens": ["a", ""]},
            "word 1 of line 1 of PATH is '' in the column 'tokens'; it must be text and not empty",
        ),
        (
            {"tokens": []},
            "line 1 of PATH has no words in the column 'tokens'; fill it or leave the row out, or set drop_empty: true",
        ),
        ({"tokens": "a b"}, "line 1 of PATH has 'a b' in the column 'tokens'; it must be a list of words"),
        (
            {"tags": ["O", 5]},
            "word 1 of line 1 of PATH has the label 5 in the column 'tags'; known: O (0), B-PER (1), I-PER (2), B-LOC "
            "(3), I-LOC (4); correct labels, or add a label_map",
        ),
    ],
)
def test_bad_sentences_are_refused_in_one_line(tmp_path: Path, change, message: str):
    text = json.dumps({"id": 1, "tokens": ["a", "b"], "tags": ["O", "O"], **change})
    assert refused(tmp_path, LISTS, "a.jsonl", text) == message


# --- questions


def squad(**change) -> str:
    """SQuAD's JSON with one question."""
    answers = [{"text": t, "answer_start": s} for t, s in zip(*ANSWERS.values(), strict=True)]
    question = {"id": "1", "question": "where?", "answers": answers, **change}
    return json.dumps(
        {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": [question]}]}]}
    )


def mrqa(**change) -> str:
    """MRQA's lines with one question."""
    found = [{"text": "rome", "char_spans": [[14, 17]], "token_spans": [[3, 3]]}]
    question = {"qid": "1", "question": "where?", "detected_answers": found, "answers": ["Rome", "in Rome"], **change}
    return "\n".join(
        [json.dumps({"header": {"dataset": "SQuAD"}}), json.dumps({"context": CONTEXT, "qas": [question]})]
    )


def test_every_format_gives_the_same_question(tmp_path: Path):
    fields = {"question": "where?", "context": CONTEXT, "answers": ["Rome", "in Rome"], "spans": [[14, 18], [11, 18]]}
    by_json = read(tmp_path, QA, "a.json", squad(), format="squad")
    assert (by_json[0].uid, by_json[0].fields) == ("1", fields)
    assert read(tmp_path, QA, "a.jsonl", json.dumps(record())) == by_json
    listed = [{"text": t, "answer_start": s} for t, s in zip(*ANSWERS.values(), strict=True)]
    assert read(tmp_path, QA, "a.jsonl", json.dumps(record(answers=listed))) == by_json
    pq.write_table(pa.Table.from_pylist([record()]), tmp_path / "b.parquet")
    assert read(tmp_path, QA, "b.parquet", (tmp_path / "b.parquet").read_bytes()) == by_json
    packed = read(tmp_path, QA, "a.jsonl.gz", gzip.compress(mrqa().encode()), format="mrqa")
    assert packed[0].fields == {**fields, "spans": [[14, 18]]}, "MRQA has spans of its own, golds beside them"
    assert read(tmp_path, QA, "a.jsonl", mrqa(), format="mrqa") == packed


def test_a_split_without_answers_is_read_without_them(tmp_path: Path):
    (example,) = read(tmp_path, QA, "a.jsonl", json.dumps(record(answers=None)), unlabelled=["train"])
    assert sorted(example.fields) == ["context", "question"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"text": ["Rome"], "answer_start": [13]},
            "line 1 of PATH has the answer 'Rome' at 13, but the context has ' Rom' there; correct answer_start (the "
            "number of its first character, from 0)",
        ),
        (
            {"text": ["Rome"], "answer_start": [-5]},
            "line 1 of PATH has the answer 'Rome' at -5, but the context has 'Anna' there; correct answer_start (the "
            "number of its first character, from 0)",
        ),
        (
            {"text": [" "], "answer_start": [4]},
            "line 1 of PATH has the empty answer ' ' in the column 'answers'; fill it or leave the row out",
        ),
        (
            {"text": [], "answer_start": []},
            "line 1 of PATH has no answer in the column 'answers'; every question needs one in its context: leave out "
            "those without, or list the split under unlabelled",
        ),
        (
            {"text": ["Rome"], "answer_start": []},
            "line 1 of PATH has answers without as many answer_start as text in the column 'answers'",
        ),
        (
            {"text": ["Rome"], "answer_start": ["14"]},
            "line 1 of PATH has the answer_start '14'; allowed: a character's number, from 0",
        ),
        (
            "Rome",
            "line 1 of PATH has 'Rome' in the column 'answers'; it must be {text: [...], answer_start: [...]}",
        ),
    ],
)
def test_bad_answers_are_refused_in_one_line(tmp_path: Path, answers, message: str):
    assert refused(tmp_path, QA, "a.jsonl", json.dumps(record(answers=answers))) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "{",
            "PATH is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); ",
        ),
        ('{"dat": []}', "the file of PATH has no list 'data'; is it another format?"),
        ('{"data": [{"paragraphs": [3]}]}', "data[0].paragraphs[0] of PATH is int, not an object {...}"),
        ('{"data": []}', "PATH has no rows; a split needs at least one example"),
        (squad(question=" "), "question 1 of PATH has empty text in the column 'question'; fill it or leave the row "),
        (squad(answers="x"), "data[0].paragraphs[0].qas[0] of PATH has no list 'answers'; is it another format?"),
        (squad().replace(CONTEXT, "\u00e4").encode("latin-1").replace(b"\\u00e4", b"\xe4"), "PATH is not utf-8 text ("),
    ],
)
def test_a_bad_squad_file_is_refused_in_one_line(tmp_path: Path, content, message: str):
    assert refused(tmp_path, QA, "a.json", content, format="squad").startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            mrqa(detected_answers=[{"text": "Rome", "char_spans": [[13, 16]]}]),
            "line 2 of PATH has the answer 'Rome' at 13 to 16, but the context has ' Rom' there; correct char_spans "
            "(first and last character, from 0)",
        ),
        (
            mrqa(detected_answers=[{"text": "Rome", "char_spans": [["a", "b"]]}]),
            "line 2 of PATH has the answer 'Rome' with the span 'a' to 'b'; allowed: two characters",
        ),
        (mrqa(detected_answers=None), "line 2.qas of PATH has no list 'detected_answers'; is it another format?"),
        (mrqa(answers=[""]), "question 1 of PATH has [''] as its answers; they must be texts and not empty"),
        (
            "{",
            "line 1 of PATH is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 ",
        ),
        (
            gzip.compress(mrqa().encode(), mtime=0)[:40],
            "PATH is damaged gzip (Compressed file ended before the end-of-stream ",
        ),
        ('{"header": {}}', "PATH has no rows; a split needs at least one example"),
    ],
)
def test_a_bad_mrqa_file_is_refused_in_one_line(tmp_path: Path, content, message: str):
    assert refused(tmp_path, QA, "a.jsonl.gz", content, format="mrqa").startswith(message)


def test_a_span_that_is_no_pair_is_refused(tmp_path: Path):
    content = mrqa(detected_answers=[{"text": "Rome", "char_spans": [3]}])
    assert refused(tmp_path, QA, "a.jsonl", content, format="mrqa") == (
        "line 2 of PATH has the answer 'Rome' with the span 3; allowed: [first character, last character]"
    )


# --- sources


def joined(folder: Path, **change) -> dict[str, Any]:
    """Two sources; the second has its own column for the question and no training set."""
    (folder / "en.jsonl").write_text(json.dumps(record()))
    other = record(id="1")
    (folder / "de.jsonl").write_text(json.dumps({**other, "frage": other.pop("question")}))
    files = {"train": str(folder / "en.jsonl"), "test": str(folder / "en.jsonl")}
    sources = [
        {"name": "en", "language": "en", "files": files},
        {"name": "de", "language": "de", "files": {"test": str(folder / "de.jsonl")}, "columns": {"question": "frage"}},
    ]
    return {**QA, "sources": sources, **change}


def test_joined_sources_stand_one_after_the_other_with_names_and_languages(tmp_path: Path):
    spec = load_spec(joined(tmp_path))
    assert spec.splits == ("train", "test")
    assert [(e.uid, e.fields["language"]) for e in read_split(spec, "test")] == [("en/1", "en"), ("de/1", "de")]
    assert [e.uid for e in read_split(spec, "train")] == ["en/1"]


def test_the_language_may_stand_in_the_id(tmp_path: Path):
    text = "\n".join(json.dumps(record(id=f"{name}-{i}")) for i in range(20) for name in ("finnish", "thai"))
    holdout = {"validation": {"from": "train", "fraction": 0.1, "stratify": "language"}}
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    spec = load_spec({**QA, "files": {"train": str(path)}, "language_pattern": "^[a-z]+", "holdout": holdout})
    held = [e.fields["language"] for e in read_split(spec, "validation")]
    assert sorted(held) == ["finnish", "finnish", "thai", "thai"]
    assert refused(tmp_path, QA, "a.jsonl", json.dumps(record()), language_pattern="^[a-z]+") == (
        "line 1 of PATH has the id '1', in which language_pattern = '^[a-z]+' finds nothing"
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"files": {"train": "a"}}, "sources and files given; give one of the two"),
        ({"encoding": "latin-1"}, "format, encoding and conll are settings of each source; set them there"),
        ({"columns": {"context": "c"}}, "columns.question is missing; name the column that holds the question"),
        ({"columns": {"words": "w", "tags": "t"}}, "columns.tags = 't' needs labels: the class names in class order"),
        ({"columns": {"text": "w", "tags": "t"}}, "columns.tags needs columns.words: the column that holds the words"),
        (
            {"columns": {"text": "w", "answers": "a"}},
            "columns.answers needs columns.context: the column that holds the context",
        ),
        (
            {"language": "en", "language_pattern": "x"},
            "language, language_pattern and columns.language all name the language; give one of them",
        ),
        (
            {"language_pattern": "x", "columns": {"text": "t"}},
            "language_pattern = 'x' is of the id; name its column: columns.id",
        ),
        (
            {"language_pattern": "("},
            "language_pattern = '(' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(tmp_path: Path, tree, message: str):
    with pytest.raises(ConfigError) as error:
        load_spec(joined(tmp_path, **tree), where="q.yaml")
    assert str(error.value) == f"q.yaml: {message}"


def test_two_sources_of_one_name_and_options_of_another_format_are_refused():
    source = {"name": "a", "files": {"train": "a.csv"}}
    tree = {**QA, "sources": [source, source]}
    with pytest.raises(ConfigError, match=r"^the dataset: sources has the name 'a' twice; it begins their uids$"):
        load_spec(tree)
    with pytest.raises(ConfigError, match=r"conll is how CoNLL columns are read, but format = 'csv'; leave one out$"):
        load_spec({**QA, "files": {"train": "a"}, "format": "csv", "conll": {"docstart": "keep"}})
