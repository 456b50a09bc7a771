"""From a corpus to a token store, once for many runs: `prepare_store`."""

from bertsmith.preparation.prepare import find_store, finished_store, prepare_store
from bertsmith.preparation.report import describe_text, describe_vocabulary, report_json
from bertsmith.preparation.settings import (
    columns_of,
    rules_of,
    with_absolute_paths,
    with_tokenizer_of,
)

__all__ = [
    "columns_of",
    "describe_text",
    "describe_vocabulary",
    "find_store",
    "finished_store",
    "prepare_store",
    "report_json",
    "rules_of",
    "with_absolute_paths",
    "with_tokenizer_of",
]
