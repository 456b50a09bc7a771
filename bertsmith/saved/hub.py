"""Models by name: `hf:owner/name`, and `hf:owner/name@revision`, on the Hugging Face Hub.

Files are fetched one by one through `huggingface_hub`, checked by it, and kept in its cache beside
the user's other models; what is there already is not asked for again, and does without a network.
JSON and safetensors alone are fetched, besides the plain text of a vocabulary.
"""

from __future__ import annotations

import re
from pathlib import Path

from bertsmith.errors import ModelError
from bertsmith.saved.hugging_face import (
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    read_config,
    read_json,
)
from bertsmith.saved.sentence_transformers import POOLING_FILES
from bertsmith.saved.stored import files_of_index
from bertsmith.tokenizer.folder import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from bertsmith.tokenizer.folder import TOKENIZER_FILE, VOCABULARY_FILE

PREFIX = "hf:"

_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")


def is_hub_name(path: str | Path) -> bool:
    """Whether what is given for a model's folder names one on the hub."""
    return str(path).startswith(PREFIX)


def fetched(name: str) -> Path:
    """The folder in the cache that holds the files of a model on the hub.

    Args:
        name: `hf:owner/name`, and maybe `@` a branch, a tag or a commit.

    Raises:
        ModelError: there is no such model, it is of no architecture of this package, it has no
            safetensors; or the hub is not reached, and the files are not in the cache.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ModelError(
            f"A model on the hub must be named hf:owner/name or hf:owner/name@revision; got {name}."
        )
    config = _file(name, match["repo"], CONFIG_FILE, match["revision"])
    if config is None:
        raise ModelError(f"{name} must hold {CONFIG_FILE}; it does not.")
    folder, commit = config.parent, config.parent.name
    read_config(folder)  # before its weights are fetched
    if _file(name, match["repo"], WEIGHTS_FILE, commit) is None:
        index = _file(name, match["repo"], INDEX_FILE, commit)
        if index is None:
            raise ModelError(
                f"{name} must hold {WEIGHTS_FILE} or {INDEX_FILE}; it does not. Weights in other "
                "formats (pickles among them) are not read."
            )
        for part in files_of_index(index, read_json(index)):
            if _file(name, match["repo"], part, commit) is None:
                raise ModelError(f"{name} must hold {part}, which its index names; it does not.")
    _file(name, match["repo"], TOKENIZER_CONFIG_FILE, commit)
    if _file(name, match["repo"], TOKENIZER_FILE, commit) is None:
        _file(name, match["repo"], VOCABULARY_FILE, commit)
    modules, *others = POOLING_FILES
    if _file(name, match["repo"], modules, commit) is not None:
        for file in others:
            _file(name, match["repo"], file, commit)
    return folder


def pinned(name: str) -> str:
    """The same name with the commit that its revision means now. Raises: `ModelError`."""
    return f"{name.partition('@')[0]}@{fetched(name).name}"


def _file(name: str, repo: str, file: str, revision: str | None) -> Path | None:
    """Where a file of the model lies in the cache; None if the model has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        if try_to_load_from_cache(repo, file, revision=revision) is _CACHED_NO_EXIST:
            return None  # and it is not asked for again
        return Path(hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError as error:
        if revision is not None and file != CONFIG_FILE:
            return None
        raise ModelError(
            f"{name} is not in the cache of the Hugging Face Hub, and the hub was not reached. "
            "Check the network, or name a folder."
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is open to those alone who accepted its terms. Accept them on its page, and "
            "sign in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"There is no model {name} on the Hugging Face Hub, or it is private (`hf auth login`)."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"The model {name} has no such revision.") from error
    except Exception as error:  # of the hub, of its HTTP client, of the disk
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"Cannot fetch {file} of {name}: {said}.") from error
