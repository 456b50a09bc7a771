from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import chain, combinations
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.config import (
    MODEL_CONFIGS,
    PRESETS,
    RECIPES,
    DataConfig,
    FinetuneConfig,
    FinetuneSettings,
    LabelledConfig,
    LabelledSettings,
    PreparationConfig,
    PreparationSettings,
    PretrainConfig,
    PretrainSettings,
    ProbeConfig,
    ProbeSettings,
    SimilarityConfig,
    TrainingConfig,
    parse_counts,
    resolve,
    to_toml,
)
from bertsmith.config.fields import Given, rules_of, types_of
from bertsmith.config.schema import SECTIONS, section_classes, section_of
from bertsmith.errors import ConfigError, RunError
from bertsmith.training.run import Run
from bertsmith.training.settings import Layers


def test_no_setting_stands_in_two_sections() -> None:
    for model in MODEL_CONFIGS.values():
        names = [{field.name for field in fields(c)} for c in (model, DataConfig, TrainingConfig)]
        assert not any(a & b for a, b in combinations(names, 2))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_and_recipe_survives_toml(preset: str, recipe: str, tmp_path: Path) -> None:
    config = resolve(preset=preset, recipe=recipe)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert resolve(file=file) == config


def test_flags_go_over_the_file_over_the_recipe_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("preset = 'tiny'\n[training]\nbatch_size = 7\nlearning_rate = 1\n")
    config = resolve(file=file, overrides={"learning_rate": 0.5})
    assert (config.preset, config.training.batch_size) == ("tiny", 7)
    assert config.training.learning_rate == 0.5
    assert config.preparation.tokenizer == "wordpiece"


def test_a_budget_takes_the_place_of_the_one_below() -> None:
    assert resolve().training.epochs == 4
    training = resolve(overrides={"minutes": 2}).training
    assert (training.epochs, training.minutes) == (None, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 770, "num_attention_heads": 12}, r"multiple of .* \(12\); got 770"),
        ({"max_length": 7}, "at least 8"),
        ({"max_length": 513}, "within `max_position_embeddings`"),
        ({"steps": 3, "epochs": 2}, "one budget"),
        ({"steps": 0}, "over 0"),
        ({"batch_size": "8"}, "of type int; got '8'"),
        ({"batch_size": True}, "of type int"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"mlm_probability": 0.0}, "over 0"),
        ({"hidden_dropout_prob": 1.0}, "under 1"),
        ({"optimizer": "adamwx"}, "did you mean adamw"),
        ({"lerning_rate": 1.0}, "did you mean learning_rate"),
        ({"corpus": ()}, "must name"),
        ({"corpus": 5}, "names or paths"),
        ({"corpus": ("",)}, "none empty"),
        ({"type_vocab_size": 1}, "at least 2"),
        ({"seed": -1}, r"at least 0 and under 2\*\*63; got -1"),
        ({"weight_decay": -1.0}, "not be negative; got -1.0"),
        ({"near_duplicate_similarity": 0.3}, "at least 0.5 and at most 1; got 0.3"),
        ({"tokenizer_sample_bytes": -1}, "not be negative; got -1"),
        ({"tokenizer": ""}, "or a folder"),
        ({"language": "German"}, "an ISO 639 code such as en or de; got 'German'"),
        ({"vocab_size": 3}, "at least 16"),
        ({"masking": "words"}, "no choice 'words'"),
        ({"objective": "nsp"}, "no choice 'nsp'"),
        ({"mlm_probability_end": 0.1, "minutes": 1}, "steps, epochs or pairs, .* got `minutes`"),
        ({"mlm_probability_end": 1.0}, "over 0 and under 1; got 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(overrides=settings)


SECTION_CLASSES = tuple(section_classes())


@pytest.mark.parametrize(
    ("keywords", "classes"),
    [
        (PreparationSettings, (PreparationConfig,)),
        (PretrainSettings, SECTION_CLASSES),
        (LabelledSettings, (LabelledConfig,)),
        (FinetuneSettings, (LabelledConfig, FinetuneConfig, SimilarityConfig)),
        (ProbeSettings, (LabelledConfig, ProbeConfig)),
    ],
)
def test_keywords_are_the_settings(keywords: type, classes: tuple[type, ...]) -> None:
    taken = {
        tuple[str, ...]: str | Sequence[str],
        tuple[int, ...]: int | Sequence[int],
    }
    expected = {
        name: taken.get(kind, kind) if rules_of(cls)[name].choices is None or kind in taken else str
        for cls in classes
        for name, kind in types_of(cls).items()
    }
    expected.pop("corpus", None)
    if "init_from" in expected:
        expected["init_from"] = str | Path | None
    assert get_type_hints(keywords) == expected


def test_a_keyword_that_is_no_setting_is_refused() -> None:
    # mypy tells as well: it would report an `ignore` that nothing needs.
    with pytest.raises(ConfigError, match="did you mean hidden_size"):
        bertsmith.pretrain(hiden_size=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="of type int"):
        bertsmith.pretrain(hidden_size="3")  # type: ignore[arg-type]


def test_a_setting_of_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`type_vocab_size` is no setting of .* modernbert"):
        resolve(overrides={"architecture": "modernbert", "type_vocab_size": 2})
    with pytest.raises(ConfigError, match=r"no setting of .* bert; did you mean layer_norm_eps"):
        resolve(overrides={"norm_eps": 1e-5})
    with pytest.raises(ConfigError, match="at least 2 segment embeddings; this modernbert has 0"):
        resolve(overrides={"architecture": "modernbert", "objective": "mlm+nsp"})
    # What only a preset or a recipe has is left out.
    assert resolve(overrides={"architecture": "modernbert"}).data.objective == "mlm"


OUTSIDE = [
    (cls, name, bound + step)
    for cls in (*SECTION_CLASSES, LabelledConfig, FinetuneConfig, ProbeConfig)
    for name, rules in rules_of(cls).items()
    for bound, step in ((rules.gt, 0), (rules.ge, -1), (rules.lt, 0), (rules.le, 1))
    if bound is not None
]


@pytest.mark.parametrize(("cls", "name", "value"), OUTSIDE)
def test_what_is_outside_of_the_bounds_is_refused(cls: type, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^`{name}` must .*; got {value}"):
        cls(**{name: value})


def test_what_a_setting_needs_is_a_setting() -> None:
    rules = chain(*(rules_of(cls).values() for cls in section_classes()))
    needs = [need for one in rules for need in one.needs.items()]
    assert needs
    for other, values in needs:
        for value in (10,) if isinstance(values, Given) else values:
            section = SECTIONS[section_of(other)](**{other: value})
            assert getattr(section, other) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw", "muon_momentum": 0.9}, "`optimizer` is adamw; .* choose muon"),
        ({"decay_ratio": 0.1}, "`lr_scheduler_type` is linear; .* choose warmup_stable_decay"),
        ({"objective": "mlm", "pairing": "filled"}, r"`objective` is mlm; .* choose mlm\+nsp"),
        ({"short_pair_probability": 0.2}, "`pairing` is adjacent; .* choose filled"),
        (
            {"validation": ("b",), "validation_fraction": 0.1},
            "`validation` is b; .* leave out `validation`",
        ),
        ({"near_duplicate_similarity": 0.9, "deduplicate": "exact"}, "`deduplicate` is exact"),
        ({"vocab_size": 8000}, "`tokenizer` is word; .* choose wordpiece, bpe or unigram"),
        ({"tokenizer": "unigram", "min_frequency": 3}, "`tokenizer` is unigram"),
        ({"tokenizer": "a/folder", "lowercase": False}, "`tokenizer` is a/folder"),
        ({"init_from": "a/folder", "attention_init": "near"}, "`init_from` is a/folder"),
    ],
)
def test_what_is_asked_for_and_changes_nothing_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"changes nothing where {message}"):
        resolve(overrides=settings)


def test_what_a_file_or_a_preset_has_may_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(to_toml(resolve(preset="tiny")))
    config = resolve(file=file, overrides={"objective": "mlm", "optimizer": "adamw"})
    assert config.data.pairing == "filled"


def test_a_store_that_a_file_names_decides_as_one_that_is_asked_for(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = bertsmith.prepare(
        text_file, tmp_path / "store", tokenizer="wordpiece", vocab_size=60, quiet=True
    )
    file = tmp_path / "c.toml"
    file.write_text(f"[preparation]\ncorpus = ['{store}']\n")
    layers = Layers.of(config=file)
    assert layers.resolve() == Layers.of(corpus=[str(store)]).resolve({"corpus": [str(store)]})
    assert layers.resolve().preparation.vocab_size == 60
    with pytest.raises(ConfigError, match="prepared with `vocab_size` = 60, and 99 was"):
        bertsmith.pretrain(config=file, vocab_size=99, output=tmp_path / "r")
    with pytest.raises(SystemExit) as leaving:
        main(["pretrain", "--config", str(file), "--vocab-size", "99"])
    assert leaving.value.code == 1
    assert "prepared with `vocab_size` = 60, and 99 was" in capsys.readouterr().err


def test_flags_give_what_keywords_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("preset = 'mini'\n[training]\nbatch_size = 7\nepochs = 9\n")
    found: list[PretrainConfig] = []

    def record(config: PretrainConfig, **options: Any) -> Run:
        found.append(config)
        raise RunError("that is all")

    monkeypatch.setattr("bertsmith.training.pretrain.run_pretraining", record)
    keywords: dict[str, Any] = {"minutes": 2, "seed": 4, "min_frequency": 3, "masking": "span"}
    for usual in ({}, keywords):
        with pytest.raises(RunError):
            bertsmith.pretrain(["a.txt", "b.txt"], config=file, **usual)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in usual.items()]
        with pytest.raises(SystemExit):
            main(["pretrain", "--config", str(file), "--corpus", "a.txt", "b.txt", *flags])
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert (found[0].training.epochs, found[2].training.minutes) == (9.0, 2.0)
    assert found[2].training.batch_size == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trainin]\n", "did you mean training"),
        ("[model]\nbatch_size = 3\n", r"belongs in \[training\]"),
        ("steps = 3\n", "no section"),
        ("= 3", "must be TOML"),
        ("preset = 3\n", "must be a name"),
        ("preset = 'basse'\n", "did you mean base"),
    ],
)
def test_bad_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(file=file)


def test_a_file_of_another_preset_is_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(to_toml(resolve(preset="mini")))
    with pytest.raises(ConfigError, match="made with preset mini"):
        resolve(preset="base", file=file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        resolve(file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1e-4),
        ({"preset": "mini"}, 1e-4),
        ({"preset": "modern-mini"}, 1e-6),
        ({"preset": "base"}, 1e-6),
        ({"optimizer": "adamw"}, 1e-6),
        ({"architecture": "modernbert"}, 1e-6),
        ({"init_from": "run"}, 1e-6),
        ({"optimizer": "adamw", "adam_epsilon": 1e-5}, 1e-5),
        ({"recipe": "chapter"}, 1e-8),
    ],
)
def test_epsilon_is_large_where_that_was_measured(settings: Any, expected: float) -> None:
    named = {name: settings.get(name) for name in ("preset", "recipe")}
    overrides = {name: value for name, value in settings.items() if name not in named}
    assert resolve(**named, overrides=overrides).training.adam_epsilon == expected


def test_the_chapter_recipe_is_the_chapters() -> None:
    config = resolve(recipe="chapter")
    training = config.training
    assert (training.batch_size, training.optimizer, training.steps) == (512, "adam", 50)
    assert (training.learning_rate, training.lr_scheduler_type) == (0.01, "constant")
    assert vars(config.model)["hidden_dropout_prob"] == 0.2


def test_a_setting_that_there_was_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[preparation]\ntext_column = "body"\nid_column = "id"\n')
    assert resolve(file=file).preparation.text_column == "body"


def test_micro_batches_of_older_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[training]\nmicro_batch_size = 16\n[data]\nmax_length = 128\n")
    assert resolve(file=file).training.micro_batch == 16 * 128


def test_counts_have_units() -> None:
    assert parse_counts("n", ["1M,2M", "500k", " 1.5M ", "10M,,7"]) == (
        7,
        500_000,
        1_000_000,
        1_500_000,
        2_000_000,
        10_000_000,
    )


@pytest.mark.parametrize("text", ["1m", "x", "-3", "0", "1e6", "0.2", "1 000", "\u0663"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="`checkpoint_at_words` must be numbers such as"):
        resolve(overrides={"checkpoint_at_words": (text,)})
