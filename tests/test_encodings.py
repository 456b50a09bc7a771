from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import warnings
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.config import PreparationConfig, given_by_store, resolve
from bertsmith.corpus import Document, open_corpus
from bertsmith.corpus.encodings import as_utf8
from bertsmith.errors import ConfigError, CorpusError
from bertsmith.preparation.prepare import prepare_store
from bertsmith.preparation.settings import key_of
from tests.support.stores import sign

TEXTS = {
    "windows-1252": "Die Brücke ist alt – sehr alt. Ein „Kran“ hebt sie.",
    "utf-16": "Кран поднимает балку. Птица летит. 𝄞",
    "utf-16-le": "Мост стар. Река ждёт.",
    "utf-16-be": "Мост стар. Река ждёт.",
    "utf-32": "Мост стар. Река ждёт.",
    "gbk": "起重机吊起横梁。鸟儿向北飞。",
    "gb18030": "起重机吊起横梁。鸟儿向北飞。",
    "big5": "河流穿過古老城市。",
    "shift_jis": "クレーンが梁を持ち上げる。",
    "euc_kr": "다리는 오래되었다.",
    "koi8-r": "Мост стар. Река ждёт.",
}


def read(path: Path, encoding: str = "utf-8") -> list[Document]:
    corpus = open_corpus([str(path)], validation_fraction=0, encoding=encoding)
    return list(corpus.read("train"))


def content(text: str, ending: str) -> str:
    if ending == ".jsonl":
        return json.dumps({"text": text}, ensure_ascii=False) + "\n"
    if ending == ".txt":
        return text + "\r\n"
    written = io.StringIO()
    delimiter = "\t" if ending == ".tsv" else ","
    csv.writer(written, delimiter=delimiter).writerows([["text", "id"], [text, "1"]])
    return written.getvalue()


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_text_in_any_encoding_is_read_as_in_utf8(
    encoding: str, ending: str, packing: str, tmp_path: Path
) -> None:
    text = content(TEXTS[encoding] * 3, ending)
    plain, other = tmp_path / f"a{ending}", tmp_path / f"b{ending}{packing}"
    plain.write_bytes(text.encode())
    encoded = text.encode(encoding)
    other.write_bytes(gzip.compress(encoded) if packing else encoded)
    assert read(other, encoding) == read(plain) != []


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8])
@pytest.mark.parametrize("encoding", ["utf-8", "windows-1252"])
def test_a_byte_order_mark_says_what_a_file_is(mark: bytes, encoding: str, tmp_path: Path) -> None:
    names = {
        codecs.BOM_UTF16_LE: "utf-16-le",
        codecs.BOM_UTF16_BE: "utf-16-be",
        codecs.BOM_UTF8: "utf-8",
    }
    file = tmp_path / "a.txt"
    file.write_bytes(mark + TEXTS["koi8-r"].encode(names[mark]))
    assert read(file, encoding) == [[["Мост стар.", "Река ждёт."]]]


def test_characters_that_end_behind_a_block(tmp_path: Path) -> None:
    text = "Ab 𝄞ж. " * 40_000
    for encoding in ("utf-16", "gb18030"):
        stream = as_utf8(io.BufferedReader(io.BytesIO(text.encode(encoding))), encoding)
        assert stream.read().decode() == text
        assert not stream.seekable()


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [("windows-1252", b"fine\nbad \x81 here"), ("gbk", "铁桥\n河流".encode("gbk")[:-1])],
)
def test_what_is_not_in_the_encoding_is_refused(encoding: str, raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(raw)
    with pytest.raises(CorpusError, match=rf"must be {encoding}; .* --encoding"):
        read(file, encoding)


def test_escaped_bytes_never_become_other_letters() -> None:
    # Taken as they stand, the bytes that are nothing in GBK would be a letter in UTF-8.
    raw = b"A\xff\xc3\xa9\xff"
    found = as_utf8(io.BufferedReader(io.BytesIO(raw)), "ascii").read()
    assert found == b"A\xff\xff\xff\xff"


def test_text_that_is_no_utf8_is_told_of_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Die Brücke.".encode("windows-1252"))
    with pytest.raises(CorpusError, match="--encoding windows-1252"):
        read(file)
    file.write_bytes(TEXTS["utf-16-le"].encode("utf-16-le"))
    with pytest.raises(CorpusError, match="--encoding utf-16"):
        read(file)


def test_large_text_in_another_encoding_is_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertsmith.corpus.lines.PART_BYTES", 1000)
    lines = [f"Кран {number}.\n\n" for number in range(2000)]
    plain, marked = tmp_path / "a.txt", tmp_path / "b.txt"
    plain.write_bytes("".join(lines).encode())
    marked.write_bytes("".join(lines).encode("utf-16"))
    corpora = [open_corpus([str(file)], validation_fraction=0) for file in (plain, marked)]
    assert list(corpora[0].read("train")) == list(corpora[1].read("train"))


def test_parquet_has_its_own_encoding(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Мост."]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "gbk") == [[["Мост."]]]


@pytest.mark.parametrize("name", ["rot13", "base64", "nonsense", "", "undefined", "utf-8\0"])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="`encoding` must be an encoding of text"):
        PreparationConfig(encoding=name)


def test_the_key_says_the_encoding_only_where_it_is_another(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"caf\xc3\xa9")

    def key(encoding: str) -> str:
        config = PreparationConfig(corpus=(str(file),), encoding=encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in the other one it is taken for UTF-8
            corpus = open_corpus(config.corpus, encoding=config.encoding)
        return key_of(config, corpus, None)

    assert key("UTF8") == key("utf-8")
    assert key("cp1252") == key("windows-1252") != key("utf-8")


def test_a_store_with_the_settings_of_before_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("The crane lifts a beam. The bird flies north.\n\n" * 30)
    config = PreparationConfig(corpus=(str(file),))
    store = prepare_store(config, tmp_path / "st")
    manifest = store.path / "token-store.json"
    sign(store.path, lambda found: found["settings"].pop("encoding"))
    sign(store.path, lambda found: found["settings"].update(id_column=None))
    (given,) = given_by_store([str(store.path)])
    resolve(given=[given], overrides={"corpus": [str(store.path)]})
    before = manifest.stat()
    prepare_store(config, store.path)  # finds it
    assert manifest.stat().st_mtime_ns == before.st_mtime_ns


def test_a_store_says_its_encoding(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes((TEXTS["windows-1252"] + "\n\n").encode("windows-1252") * 30)
    config = PreparationConfig(corpus=(str(file),), encoding="windows-1252", language="de")
    store = prepare_store(config, tmp_path / "st")
    assert store.manifest.settings["encoding"] == "cp1252"
    tokenizer = store.tokenizer(32)
    assert tokenizer.unk not in tokenizer.encode("die brücke").tokens
