"""Typed settings, read once at start from the environment and `.env`, the environment winning.

Variables of `.env` that libraries read are no settings; see `bot.env_file`.

Every setting is a field of `Settings` under its own name in capitals; `.env.example` documents each one, and
a test holds the two together. A faulty one becomes a `SettingsError` of one line for each fault, which names
the variable and what to write instead. Values are never repeated: one of them may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bot.env_file import EnvFile, misspelt, passwords, read_env_file
from bot.errors import SettingsError

TOKEN_PAGE = "https://discord.com/developers/applications"  # noqa: S105  an address, not a secret

_TOKEN_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")


def _looks_like_a_token(value: SecretStr) -> SecretStr:
    if not _TOKEN_SHAPE.fullmatch(value.get_secret_value()):
        raise ValueError("not a bot token")
    return value


def _expanded(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) else value


def _a_file(value: Path) -> Path:
    # SQLite and SQLAlchemy know other things than files; the bot opens the database several times, as a file.
    if re.match(r":memory:$|(file|sqlite\S*):", str(value)):
        raise ValueError("not a path")
    return value


def _without_nul(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("no file has that name")
    return value


_Path = Annotated[Path, BeforeValidator(_expanded), AfterValidator(_without_nul)]


def _split(value: Any) -> Any:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


_Aliases = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
_PersonIds = Annotated[tuple[Annotated[int, Field(ge=1, lt=2**63)], ...], NoDecode, BeforeValidator(_split)]
_Amount = Annotated[int, Field(ge=0, le=1_000_000_000_000)]

_GpuName = Annotated[str, Field(pattern=r"^(\d{1,3}|GPU-[0-9a-fA-F-]{4,36})$")]

_AMOUNT_FIX = "write a whole number, or 0 for no limit"
_SHARE_FIX = "write a share from 0.01 to 1, such as 0.25 for a quarter"

# Settings that limit nobody: for a demo and for measurements, where nobody is to be protected from others.
NO_LIMITS: dict[str, float] = {
    "person_requests_per_minute": 0,
    "person_tokens_per_day": 0,
    "person_gpu_seconds_per_day": 0,
    "person_concurrent_requests": 0,
    "person_queue_share": 1,
    "server_requests_per_minute": 0,
    "server_tokens_per_day": 0,
    "server_gpu_seconds_per_day": 0,
    "server_queue_share": 1,
    "max_prompt_characters": 0,
}


class Settings(BaseSettings):
    """What an operator can set. Each description is the fix that an error message gives."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    discord_token: Annotated[SecretStr, AfterValidator(_looks_like_a_token)] | None = Field(
        None, description=f"copy the bot's token (three parts joined by dots) from {TOKEN_PAGE}"
    )
    hf_token: SecretStr | None = Field(
        None, description="write a Hugging Face access token, or leave it out for models that need none"
    )
    default_model: str = Field(
        "smol", min_length=1, description="write an alias from the catalogue, such as smol or gemma"
    )
    default_audience: str = Field(
        "a room of data scientists", min_length=1, max_length=200, description="write 1 to 200 characters"
    )
    models_file: _Path | None = Field(
        None, description="write the path of a models.toml of your own, or leave it out"
    )
    cache_dir: _Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("punchline"),
        description="write a folder the bot may write to",
    )
    data_dir: _Path = Field(
        default_factory=lambda: platformdirs.user_data_path("punchline"),
        description="write a folder the bot may write to",
    )
    keep_quantized: bool = Field(True, description="write on or off")
    gpu_device: _GpuName | None = Field(
        None,
        description="write a GPU's number or UUID (GPU-…) as `nvidia-smi -L` shows them, or leave it out for the one "
        "with most free memory; an instance of a split GPU (MIG-…) goes into CUDA_VISIBLE_DEVICES of the environment",
    )
    gpu_memory_budget: ByteSize | None = Field(
        None, description="write a size such as 20GB, or leave it out for what is free at the start"
    )
    pinned_models: _Aliases = Field((), description="write aliases with commas between")
    load_at_start: _Aliases = Field((), description="write aliases with commas between")
    unload_idle_after_min: float | None = Field(
        None, gt=0, le=10_080, description="write minutes, up to 10080 (a week), or leave it out for never"
    )
    database_file: Annotated[_Path, AfterValidator(_a_file)] | None = Field(
        None, description="write the path of a file the bot may write, or leave it out for one in DATA_DIR"
    )
    max_new_tokens: int = Field(512, ge=1, le=32_768, description="write a number of tokens from 1 to 32768")
    cuda_graphs: bool = Field(False, description="write on or off")
    batch_requests: int = Field(16, ge=1, le=256, description="write a number from 1 to 256")
    queue_limit: int = Field(32, ge=0, le=10_000, description="write how many may wait, from 0 to 10000")
    queue_timeout_s: float = Field(300, gt=0, le=3_600, description="write seconds, up to 3600")
    load_timeout_s: float = Field(1_800, gt=0, le=86_400, description="write seconds, up to 86400")
    generation_timeout_s: float = Field(180, gt=0, le=3_600, description="write seconds, up to 3600")
    shutdown_grace_s: float = Field(20, ge=0, le=600, description="write seconds, up to 600")
    edit_interval_s: float = Field(1.0, ge=0.5, le=10, description="write seconds, from 0.5 to 10")
    replies_kept_days: float = Field(30, gt=0, le=3_650, description="write days, up to 3650")
    operator_ids: _PersonIds = Field(
        (),
        description="write the ids of people with commas between, as Discord copies them in developer mode",
    )
    access_file: _Path | None = Field(
        None, description="write the path of an access.toml of your own, or leave it out"
    )
    person_requests_per_minute: _Amount = Field(10, description=_AMOUNT_FIX)
    person_tokens_per_day: _Amount = Field(200_000, description=_AMOUNT_FIX)
    person_gpu_seconds_per_day: _Amount = Field(3_600, description=_AMOUNT_FIX)
    person_concurrent_requests: _Amount = Field(3, description=_AMOUNT_FIX)
    person_queue_share: float = Field(0.25, ge=0.01, le=1, description=_SHARE_FIX)
    server_requests_per_minute: _Amount = Field(120, description=_AMOUNT_FIX)
    server_tokens_per_day: _Amount = Field(4_000_000, description=_AMOUNT_FIX)
    server_gpu_seconds_per_day: _Amount = Field(86_400, description=_AMOUNT_FIX)
    server_queue_share: float = Field(0.75, ge=0.01, le=1, description=_SHARE_FIX)
    max_prompt_characters: _Amount = Field(8_000, description=_AMOUNT_FIX)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="write DEBUG, INFO, WARNING or ERROR"
    )
    log_format: Literal["text", "json"] = Field("text", description="write text or json")
    log_content: bool = Field(
        False, description="write off, or on to have what people write in the log while you debug"
    )
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="write an address of this machine, such as 127.0.0.1"
    )
    metrics_port: int = Field(
        0, ge=0, le=65_535, description="write a port from 1 to 65535, such as 9464, or 0 for none"
    )

    _file: Path | None = PrivateAttr(None)
    _beside: EnvFile = PrivateAttr(EnvFile())

    @property
    def file(self) -> Path | None:
        """The settings file that was read, or None if there was none."""
        return self._file

    @property
    def variables(self) -> Mapping[str, str]:
        """Variables in the settings file that libraries read; their values may be secrets."""
        return self._beside.variables

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each line of the settings file, and each similar name in the environment, that counts for
        nothing."""
        return self._beside.warnings

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never appear in a log."""
        tokens = [s.get_secret_value() for s in (self.discord_token, self.hf_token) if s is not None]
        addresses = [*os.environ.values(), *self.variables.values()]
        return tuple(dict.fromkeys([*tokens, *passwords(addresses)]))

    @property
    def database_path(self) -> Path:
        """The file of the database."""
        return self.database_file or self.data_dir / "punchline.sqlite3"

    @property
    def hub_token(self) -> str | None:
        """The Hugging Face token, or None to ask the Hub as nobody."""
        return self.hf_token.get_secret_value() if self.hf_token is not None else None

    def required_token(self) -> str:
        """The Discord token.

        Raises:
            SettingsError: it is not set.
        """
        if self.discord_token is None:
            raise SettingsError(f"DISCORD_TOKEN is not set: {_fix('discord_token')}, into .env.")
        return self.discord_token.get_secret_value()


NAMES = tuple(name.upper() for name in Settings.model_fields)


def load_settings(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        env_file: the file to read beside the environment; one that does not exist counts as empty.
        overrides: values that win over both, by field name.

    Raises:
        SettingsError: one or more settings are malformed; a line for each.
    """
    try:
        settings = Settings(_env_file=env_file, **overrides)
        settings._file = env_file if env_file is not None and env_file.is_file() else None
        beside = read_env_file(env_file, NAMES)
        settings._beside = EnvFile(beside.variables, (*beside.warnings, *misspelt(os.environ, NAMES)))
        return settings
    except ValidationError as error:
        names = dict.fromkeys(str(fault["loc"][0]) for fault in error.errors(include_input=False))
        lines = (f"{name.upper()} is malformed: {_fix(name)}." for name in names)
        raise SettingsError("\n".join(lines)) from None
    except (OSError, UnicodeDecodeError):
        raise _unreadable(env_file) from None


def library_variables(env_file: Path) -> Mapping[str, str]:
    """The variables in a settings file that libraries read, for `bot.env_file.export` before `load_settings`: the
    defaults of some settings follow them, such as CACHE_DIR's XDG_CACHE_HOME.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        return read_env_file(env_file, NAMES).variables
    except (OSError, UnicodeDecodeError):
        raise _unreadable(env_file) from None


def _unreadable(env_file: Path | None) -> SettingsError:
    return SettingsError(f"{env_file} cannot be read: make it a readable UTF-8 text file.")


def _fix(name: str) -> str:
    return Settings.model_fields[name].description or "see .env.example"
