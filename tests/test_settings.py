"""What an operator writes into `.env`, and what they are told when it is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bot.errors import SettingsError
from bot.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"
TOKEN = "part-one.part_2.part3"


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in [
        name for name, value in os.environ.items() if "@" in value
    ]:  # the passwords of proxies are secrets
        monkeypatch.delenv(name)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def told(env_file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(env_file)
    return str(caught.value)


def everything_said(error: BaseException | None) -> str:
    """The texts of an error and of all that led to it, as a traceback would print them."""
    said = []
    while error is not None:
        said.append(f"{error} {error.args if isinstance(error, SettingsError) else ''}")
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def test_with_nothing_set_the_embedded_model_answers_and_nothing_is_missing(env_file: Path) -> None:
    settings = load_settings(env_file)
    assert settings.default_model == "smol"
    assert settings.default_audience == "a room of data scientists"
    assert (settings.max_new_tokens, settings.queue_limit) == (512, 32)
    assert (settings.queue_timeout_s, settings.load_timeout_s, settings.generation_timeout_s) == (
        300,
        1800,
        180,
    )
    assert (settings.edit_interval_s, settings.log_level) == (1.0, "INFO")
    assert (settings.log_format, settings.log_content) == ("text", False)
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 0)
    assert settings.models_file is None
    assert settings.cache_dir.name == settings.data_dir.name == "punchline"
    assert (settings.hub_token, settings.secrets) == (None, ())


def test_the_env_file_is_read_and_the_environment_wins_over_it(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("QUEUE_LIMIT=7\nDEFAULT_MODEL=gemma\nUNKNOWN_TO_US=1\n")
    monkeypatch.setenv("QUEUE_LIMIT", "5")
    settings = load_settings(env_file)
    assert (settings.queue_limit, settings.default_model) == (5, "gemma")


def test_what_the_caller_says_wins_over_both(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text("QUEUE_LIMIT=7\n")
    monkeypatch.setenv("QUEUE_LIMIT", "5")
    assert load_settings(env_file, queue_limit=0).queue_limit == 0


def test_an_empty_value_counts_as_not_set(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text("DISCORD_TOKEN=\nMODELS_FILE=\nCACHE_DIR=\nQUEUE_LIMIT=\nLOG_LEVEL=\n")
    monkeypatch.setenv("DEFAULT_MODEL", "")
    assert load_settings(env_file).model_dump() == load_settings(None).model_dump()


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CACHE_DIR", "~/models")
    monkeypatch.setenv("MODELS_FILE", "~/models.toml")
    settings = load_settings(None)
    assert (settings.cache_dir, settings.models_file) == (tmp_path / "models", tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("DISCORD_TOKEN", "not-a-token", "https://discord.com/developers/applications"),
        ("DISCORD_TOKEN", f'"{TOKEN}', "three parts"),
        ("DEFAULT_AUDIENCE", "x" * 201, "1 to 200 characters"),
        ("MAX_NEW_TOKENS", "0", "1 to 32768"),
        ("MAX_NEW_TOKENS", "many", "1 to 32768"),
        ("MAX_NEW_TOKENS", "12.5", "1 to 32768"),
        ("QUEUE_LIMIT", "-1", "0 to 10000"),
        ("QUEUE_TIMEOUT_S", "0", "seconds"),
        ("QUEUE_TIMEOUT_S", "5m", "seconds"),
        ("QUEUE_TIMEOUT_S", "nan", "seconds"),
        ("LOAD_TIMEOUT_S", "inf", "seconds"),
        ("GENERATION_TIMEOUT_S", "3601", "seconds"),
        ("EDIT_INTERVAL_S", "0.1", "0.5 to 10"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING or ERROR"),
        ("OPERATOR_IDS", "alice, bob", "ids of people"),
        ("OPERATOR_IDS", "0", "ids of people"),
        ("PERSON_REQUESTS_PER_MINUTE", "-1", "0 for no limit"),
        ("PERSON_TOKENS_PER_DAY", "many", "0 for no limit"),
        ("SERVER_GPU_SECONDS_PER_DAY", "1.5", "0 for no limit"),
        ("PERSON_QUEUE_SHARE", "0", "0.25 for a quarter"),
        ("SERVER_QUEUE_SHARE", "50%", "0.25 for a quarter"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("LOG_CONTENT", "perhaps", "off, or on"),
        ("DATABASE_FILE", ":memory:", "path of a file"),
        ("DATABASE_FILE", "sqlite:////data/it.sqlite3", "path of a file"),
        ("DATABASE_FILE", "file:it.sqlite3?mode=ro", "path of a file"),
        ("GPU_DEVICE", "cuda:1", "as `nvidia-smi -L` shows them"),
        ("GPU_DEVICE", "0,1", "as `nvidia-smi -L` shows them"),
        ("METRICS_PORT", "65536", "1 to 65535"),
        ("METRICS_PORT", "-1", "0 for none"),
    ],
)
def test_a_malformed_setting_is_one_line_with_its_name_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fix: str
) -> None:
    monkeypatch.setenv(name, value)
    (line,) = told().splitlines()
    assert line.startswith(f"{name} is malformed: ")
    assert fix in line
    assert line.endswith(".")
    assert f" {value} " not in line


def test_a_path_that_no_system_knows_is_malformed(env_file: Path) -> None:
    env_file.write_bytes(b"DATA_DIR=/data\0/it\nDATABASE_FILE=it\0\n")
    assert [line.split()[0] for line in told(env_file).splitlines()] == ["DATA_DIR", "DATABASE_FILE"]


def test_several_faults_are_a_line_each(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text("QUEUE_LIMIT=many\nLOG_LEVEL=LOUD\n")
    monkeypatch.setenv("EDIT_INTERVAL_S", "never")
    lines = told(env_file).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["EDIT_INTERVAL_S", "LOG_LEVEL", "QUEUE_LIMIT"]


@pytest.mark.parametrize("name", ["DISCORD_TOKEN", "QUEUE_LIMIT", "LOG_LEVEL"])
def test_a_secret_is_never_repeated_even_when_it_was_put_into_the_wrong_place(
    env_file: Path, name: str
) -> None:
    env_file.write_text(f"{name}=not-a-token-SECRET\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(env_file)
    assert "SECRET" not in everything_said(caught.value)
    assert "SECRET" not in repr(caught.value)


def test_a_secret_is_not_in_the_settings_text_but_known_to_those_who_must_strike_it_out(
    env_file: Path,
) -> None:
    env_file.write_text(f"DISCORD_TOKEN={TOKEN}\nHF_TOKEN=hf_SECRET\n")
    settings = load_settings(env_file)
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert TOKEN not in text
        assert "hf_SECRET" not in text
    assert settings.secrets == (TOKEN, "hf_SECRET")
    assert (settings.required_token(), settings.hub_token) == (TOKEN, "hf_SECRET")


def test_a_missing_token_is_said_with_where_to_get_one() -> None:
    with pytest.raises(SettingsError, match=r"^DISCORD_TOKEN is not set: .*https://discord\.com/.*\.env\.$"):
        load_settings(None).required_token()


def test_a_file_that_is_not_text_is_named(env_file: Path) -> None:
    env_file.write_bytes(b"QUEUE_LIMIT=\xff\xfe\n")
    said = told(env_file)
    assert str(env_file) in said
    assert "UTF-8" in said
    assert "\n" not in said


def test_settings_cannot_be_changed_later() -> None:
    settings = load_settings(None)
    with pytest.raises(ValueError, match="frozen"):
        settings.queue_limit = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "understood"), [("20GB", 20_000_000_000), ("8 GiB", 8 * 2**30), ("1000000", 1_000_000)]
)
def test_a_memory_budget_is_written_as_people_write_sizes(
    monkeypatch: pytest.MonkeyPatch, written: str, understood: int
) -> None:
    monkeypatch.setenv("GPU_MEMORY_BUDGET", written)
    assert load_settings(None).gpu_memory_budget == understood


def test_a_memory_budget_that_is_no_size_is_said_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_MEMORY_BUDGET", "plenty")
    assert told() == (
        "GPU_MEMORY_BUDGET is malformed: write a size such as 20GB, or leave it out for what is free at the start."
    )


def test_lists_of_aliases_have_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINNED_MODELS", "smol, gemma,")
    settings = load_settings(None)
    assert (settings.pinned_models, settings.load_at_start) == (("smol", "gemma"), ())


def test_operators_are_ids_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_IDS", "80351110224678912, 2")
    assert load_settings(None).operator_ids == (80351110224678912, 2)


def test_the_example_documents_every_setting_and_nothing_else() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    written = [match[1] for line in lines if (match := re.match(r"([A-Z0-9_]+)=", line))]
    assert written == list(dict.fromkeys(written))
    assert set(written) == {name.upper() for name in Settings.model_fields}
    for name in written:
        above = lines[next(i for i, line in enumerate(lines) if line.startswith(f"{name}=")) - 1]
        assert re.match(r"# \w", above), f"{name} has no explanation above it"


def test_the_example_can_be_copied_as_it_is_and_says_the_defaults() -> None:
    assert load_settings(EXAMPLE).model_dump() == load_settings(None).model_dump()
