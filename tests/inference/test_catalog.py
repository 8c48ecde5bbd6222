"""The catalogue: what comes with the bot, what an operator writes over it, and what they hear about mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.errors import CatalogError, UnknownModel
from bot.inference.catalog import EMBEDDED, SHIPPED, ModelCatalog, ModelSpec, SamplingParams, load_catalog

ALIASES = ["smol", "llama", "phi", "gemma", "qwen", "mixtral"]
TINY = '[tiny]\nsource = "/models/tiny"\ncontext_tokens = 256\ndescription = "a model"\n'


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def catalog_of(*aliases: str, default: str | None = None) -> ModelCatalog:
    specs = {
        alias: ModelSpec(alias=alias, source=f"/models/{i}", context_tokens=256, description=f"number {i}")
        for i, alias in enumerate(aliases)
    }
    return ModelCatalog(specs, default=default or aliases[0])


# --- What comes with the bot --------------------------------------------------------------------------------


def test_the_shipped_catalogue_has_the_six_models_and_the_embedded_one_answers() -> None:
    catalog = load_catalog()
    assert list(catalog) == ALIASES
    assert catalog.resolve(None).source == EMBEDDED
    assert all(spec.quantization == "nf4" for spec in catalog.values())


def test_every_shipped_repository_is_pinned_to_a_commit() -> None:
    for spec in load_catalog().values():
        if spec.repository is not None:
            assert re.fullmatch(r"[0-9a-f]{40}", spec.revision), spec.alias


def test_a_descriptions_length_fits_a_choice_in_discord() -> None:
    assert all(len(spec.description) <= 100 for spec in load_catalog().values())


# --- An operator's own file -----------------------------------------------------------------------------------


def test_an_own_file_wins_key_by_key_and_leaves_the_rest(own: Path) -> None:
    shipped = load_catalog()["gemma"]
    own.write_text("[gemma]\ncontext_tokens = 1024\nsampling.temperature = 0.1\n")
    changed = load_catalog(own)["gemma"]
    assert (changed.context_tokens, changed.sampling.temperature) == (1024, 0.1)
    assert (changed.repository, changed.revision) == (shipped.repository, shipped.revision)
    assert (changed.sampling.top_p, changed.sampling.top_k) == (0.95, 64)


def test_an_own_file_adds_models_after_the_shipped_ones(own: Path) -> None:
    own.write_text(TINY + "[tiny.sampling]\nseed = 1\n[gemma]\ncontext_tokens = 1024\n")
    catalog = load_catalog(own, default="tiny")
    assert list(catalog) == [*ALIASES, "tiny"]
    assert catalog.resolve(None).sampling == SamplingParams(seed=1)
    assert catalog["tiny"].place == "/models/tiny"


def test_naming_a_folder_takes_the_place_of_the_repository_and_back(own: Path) -> None:
    own.write_text('[gemma]\nsource = "/models/gemma"\n[smol]\nrepository = "someone/smol"\n')
    catalog = load_catalog(own)
    assert (catalog["gemma"].repository, catalog["gemma"].source) == (None, "/models/gemma")
    assert (catalog["smol"].repository, catalog["smol"].source) == ("someone/smol", None)
    assert catalog["smol"].place == "someone/smol"


def test_an_empty_own_file_changes_nothing(own: Path) -> None:
    own.write_text("# nothing yet\n")
    assert dict(load_catalog(own)) == dict(load_catalog())


def test_a_default_that_is_not_in_the_catalogue_is_said_with_the_nearest() -> None:
    with pytest.raises(CatalogError, match=r"^DEFAULT_MODEL is 'gema', .*Did you mean 'gemma'"):
        load_catalog(default="gema")


# --- Mistakes in it -------------------------------------------------------------------------------------------

LEAD = "# my models\n\n"  # so that line 1 is never right by chance
FAULTS = {
    "unknown key": (TINY + "colour = 1\n", 7, "'tiny.colour' is not a key of the catalogue: remove it"),
    "misspelt key": (TINY + "quantisation = 'nf4'\n", 7, "'tiny.quantisation' .* write 'quantization'"),
    "wrong type": (TINY.replace("256", '"many"'), 5, "'tiny.context_tokens' is wrong: .*integer"),
    "number for a text": (TINY.replace('"a model"', "7"), 6, "'tiny.description' is wrong: .*string"),
    "number in quotes": (TINY.replace("256", '"256"'), 5, "'tiny.context_tokens' is wrong: .*integer"),
    "fraction for a whole number": (TINY.replace("256", "256.5"), 5, "'tiny.context_tokens' is wrong"),
    "out of range": (TINY.replace("256", "3"), 5, "'tiny.context_tokens' is wrong: .*64"),
    "too long": (TINY.replace("a model", "a model" * 20), 6, "'tiny.description' is wrong: .*100"),
    "no such choice": (TINY + 'quantization = "int8"\n', 7, "'tiny.quantization' is wrong: .*nf4"),
    "no repository name": (
        TINY.replace("source", "repository"),
        4,
        "'tiny.repository' is wrong: ",
    ),
    "missing key": (TINY.replace("context_tokens = 256\n", ""), 3, "'tiny.context_tokens' is missing"),
    "missing key of a second model": (
        TINY + '[other]\nsource = "x"\ncontext_tokens = 99\n',
        7,
        "'other.description' is missing",
    ),
    "no place": (TINY.replace('source = "/models/tiny"\n', ""), 3, "'tiny' needs exactly one of"),
    "two places": (TINY + 'repository = "someone/tiny"\n', 3, "'tiny' needs exactly one of"),
    "alias as a key": (TINY + 'alias = "small"\n', 7, "'tiny.alias' is given by the table's name: remove it"),
    "capital in an alias": (TINY.replace("[tiny]", "[Tiny]"), 3, "'Tiny' is no alias"),
    "space in an alias": (TINY.replace("[tiny]", '["my model"]'), 3, "'my model' is no alias"),
    "alias too long": (TINY.replace("tiny]", "a" * 33 + "]"), 3, "'a{33}' is no alias"),
    "key outside a table": (f"context_tokens = 99\n{TINY}", 3, "'context_tokens' does not belong to a model"),
    "list of tables": (TINY.replace("[tiny]", "[[tiny]]"), 3, "'tiny' does not belong to a model"),
    "sampling in a table": (
        TINY + "\n[tiny.sampling]\ntop_k = 1\ntemperature = 9.0\n",
        10,
        "'tiny.sampling.temperature' is wrong: .*5",
    ),
    "sampling in an indented table": (
        TINY + "  [ tiny . sampling ]  # how\n  temperature = 9.0\n",
        8,
        "'tiny.sampling.temperature' is wrong",
    ),
    "unknown key in sampling": (
        TINY + "[tiny.sampling]\ntemprature = 0.5\n",
        8,
        "'tiny.sampling.temprature' .* write 'temperature'",
    ),
    "sampling as a dotted key": (
        TINY + "sampling.temperature = 9.0\n",
        7,
        "'tiny.sampling.temperature' is wrong",
    ),
    "sampling in an inline table": (
        TINY + "sampling = { top_k = 1, temperature = 9.0 }\n",
        7,
        "'tiny.sampling.temperature' is wrong",
    ),
    "sampling as a number": (TINY + "sampling = 9\n", 7, "'tiny.sampling' is wrong"),
    "quoted keys": (
        TINY.replace("[tiny]", "['tiny']") + '["tiny".sampling]\n"temperature" = 9.0\n',
        8,
        "'tiny.sampling.temperature' is wrong",
    ),
    "quoted alias with a dot": (
        TINY.replace("[tiny]", '["tiny.v2"]').replace("256", "3"),
        5,
        r"'tiny.v2.context_tokens' is wrong",
    ),
    "same key in two models": (
        TINY + TINY.replace("[tiny]", "[other]").replace("256", "3"),
        9,
        "'other.context_tokens' is wrong",
    ),
    "over a shipped model": ("[gemma]\n\ncontext_tokens = 3\n", 5, "'gemma.context_tokens' is wrong"),
}


@pytest.mark.parametrize(("text", "line", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_mistake_is_one_sentence_with_its_file_and_line(
    own: Path, text: str, line: int, problem: str
) -> None:
    own.write_text(LEAD + text)
    with pytest.raises(CatalogError) as caught:
        load_catalog(own)
    said = str(caught.value)
    assert said.startswith(f"{own}, line {line}: ")
    assert re.search(problem, said)
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize("text", ["[tiny\n", "[tiny]\nsource = nothing\n", "[tiny]\n[tiny]\n"])
def test_what_is_not_toml_is_said_with_its_file_and_line(own: Path, text: str) -> None:
    own.write_text(LEAD + text)
    at = len((LEAD + text).splitlines())
    with pytest.raises(CatalogError, match=rf"models\.toml is not valid TOML: .*line {at}, column \d+"):
        load_catalog(own)


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_is_named_with_the_setting(own: Path, kind: str) -> None:
    if kind == "folder":
        own.mkdir()
    elif kind == "not text":
        own.write_bytes(TINY.encode("utf-16"))
    with pytest.raises(CatalogError) as caught:
        load_catalog(own)
    assert f"{own} cannot be read" in str(caught.value)
    assert "MODELS_FILE" in str(caught.value)


def test_the_shipped_file_is_where_the_faults_of_the_shipped_one_are_said_to_be(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.write_text(SHIPPED.read_text(encoding="utf-8").replace("context_tokens = 4096", "context_tokens = 4"))
    monkeypatch.setattr("bot.inference.catalog.SHIPPED", own)
    with pytest.raises(CatalogError, match=r"models\.toml, line \d+: 'phi\.context_tokens'"):
        load_catalog()


# --- Choosing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["gemma", "GEMMA", "  Gemma\n"])
def test_an_alias_is_found_in_any_case_with_spaces_around_it(typed: str) -> None:
    assert load_catalog().resolve(typed).alias == "gemma"


@pytest.mark.parametrize("nothing", [None, ""])
def test_nobody_named_one_so_the_default_answers(nothing: str | None) -> None:
    assert catalog_of("a", "b", default="b").resolve(nothing).alias == "b"


def test_a_near_miss_is_offered() -> None:
    with pytest.raises(UnknownModel, match=r"^There is no model called 'lama'\. Did you mean 'llama'\?$"):
        load_catalog().resolve("Lama")


def test_what_is_near_to_nothing_gets_the_list() -> None:
    with pytest.raises(UnknownModel, match=r"Choose from: smol, llama, phi, gemma, qwen, mixtral\.$"):
        load_catalog().resolve("zzz")


def test_a_long_list_and_long_nonsense_are_cut() -> None:
    catalog = catalog_of(*(f"m{i}" for i in range(99)))
    with pytest.raises(UnknownModel) as caught:
        catalog.resolve("x" * 5000)
    said = str(caught.value)
    assert said.endswith("m8, m9 ….")
    assert len(said) < 200


def test_a_search_finds_aliases_first_then_descriptions_and_places() -> None:
    catalog = load_catalog()
    found = [spec.alias for spec in catalog.search(" PHI", limit=25)]
    assert found == ["phi"]
    assert [spec.alias for spec in catalog.search("mixtral", limit=25)] == ["mixtral"]
    assert [spec.alias for spec in catalog.search("meta-llama", limit=25)] == ["llama"]
    assert [spec.alias for spec in catalog.search("maths", limit=25)] == ["phi"]
    # "qwen" has no l in its alias; its repository and description have none either, the others' do.
    assert [spec.alias for spec in catalog.search("l", limit=25)][:3] == ["smol", "llama", "mixtral"]
    assert catalog.search("zzz", limit=25) == []


def test_a_search_for_nothing_gives_all_up_to_the_limit_in_order() -> None:
    catalog = catalog_of(*(f"m{i}" for i in range(40)))
    assert [spec.alias for spec in catalog.search("", limit=25)] == [f"m{i}" for i in range(25)]


def test_an_answer_is_never_longer_than_the_operator_allows() -> None:
    params = SamplingParams(max_new_tokens=160, top_k=7)
    assert params.capped(512) == params
    assert params.capped(20) == SamplingParams(max_new_tokens=20, top_k=7)
