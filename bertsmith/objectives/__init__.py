"""What a network is pretrained on: an objective is a class in a file, and a line here."""

from __future__ import annotations

from bertsmith.config.registered import OBJECTIVES, PAIR_OBJECTIVES
from bertsmith.errors import ConfigError
from bertsmith.objectives.base import Objective, Scores, Term, VectorObjective, terms_in
from bertsmith.objectives.mlm import MaskedLM
from bertsmith.objectives.mlm_nsp import MaskedLMAndNextSentence

__all__ = [
    "Objective",
    "Scores",
    "Term",
    "VectorObjective",
    "objective_of",
    "register",
    "term_of",
    "terms_in",
]

_OBJECTIVES: dict[str, Objective] = {
    objective.name: objective for objective in (MaskedLMAndNextSentence(), MaskedLM())
}


def objective_of(name: str) -> Objective:
    """The objective of a name. Raises: `ConfigError` if there is none."""
    if name not in _OBJECTIVES:
        known = " or ".join(_OBJECTIVES)
        raise ConfigError(f"`objective` must be {known}; got {name!r}.")
    return _OBJECTIVES[name]


def term_of(name: str) -> Term:
    """The term of a name; one that has nothing else where its objective was not imported."""
    terms = [term for objective in _OBJECTIVES.values() for term in objective.terms]
    unknown = Term(name=name, title=name.upper(), count=lambda _: 0)
    return next((term for term in terms if term.name == name), unknown)


def register(objective: Objective, *, reads_pairs: bool) -> None:
    """Let settings name an objective.

    Args:
        objective: with a name that no other has.
        reads_pairs: whether its examples are sentence pairs; else they are single segments.

    Raises:
        ConfigError: there is one of its name.
    """
    if objective.name in _OBJECTIVES:
        raise ConfigError(f"There must be one objective of a name; {objective.name!r} is there.")
    _OBJECTIVES[objective.name] = objective
    OBJECTIVES.append(objective.name)
    if reads_pairs:
        PAIR_OBJECTIVES.append(objective.name)
