"""What the settings describe: the catalogue, the loader, who may ask and how much. For the start, and for a reload."""

from __future__ import annotations

from bot.access.file import read_access_file
from bot.access.gate import Limits
from bot.access.rules import OperatorAccess
from bot.errors import CatalogError
from bot.inference.catalog import ModelCatalog, load_catalog
from bot.inference.loader import ModelLoader
from bot.settings import Settings
from bot.storage.access import Quota


def model_loader(settings: Settings) -> ModelLoader:
    """The loader these settings describe."""
    return ModelLoader(settings.cache_dir, settings.hub_token, keep_quantized=settings.keep_quantized)


def read_catalog(settings: Settings) -> ModelCatalog:
    """The catalogue these settings describe.

    Raises:
        CatalogError: it cannot be used, or a setting names a model that is not in it.
    """
    catalog = load_catalog(settings.models_file, default=settings.default_model)
    named = (("PINNED_MODELS", settings.pinned_models), ("LOAD_AT_START", settings.load_at_start))
    for variable, aliases in named:
        if unknown := [alias for alias in aliases if alias not in catalog]:
            raise CatalogError(
                f"{variable} names '{unknown[0]}', which is not in the catalogue: {', '.join(catalog)}."
            )
    return catalog


def read_access(settings: Settings, catalog: ModelCatalog) -> OperatorAccess:
    """What the operator's file says about who may ask.

    Raises:
        SettingsError: it cannot be used.
    """
    return read_access_file(settings.access_file, tuple(catalog))


def limits_of(settings: Settings) -> Limits:
    """What these settings give everybody."""
    places = settings.batch_requests + settings.queue_limit
    return Limits(
        person=Quota(
            settings.person_requests_per_minute,
            settings.person_tokens_per_day,
            settings.person_gpu_seconds_per_day,
        ),
        server=Quota(
            settings.server_requests_per_minute,
            settings.server_tokens_per_day,
            settings.server_gpu_seconds_per_day,
        ),
        person_requests=_least(
            settings.person_concurrent_requests, _part(settings.person_queue_share, places)
        ),
        server_requests=_part(settings.server_queue_share, places),
        prompt_characters=settings.max_prompt_characters,
    )


def _part(share: float, places: int) -> int:
    """So many of all places, at least one; 0, which is no limit, for all of them: the queue itself says that it is
    full."""
    return 0 if share >= 1 else max(1, int(share * places))


def _least(*limits: int) -> int:
    """The limit that holds where several do; 0 is none."""
    return min((limit for limit in limits if limit), default=0)
