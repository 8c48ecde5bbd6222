"""Whether each model of the catalogue can run on this machine: the part of `check` about models."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

from bot.app import model_loader
from bot.errors import BotError, HubUnreachable
from bot.inference import embedded
from bot.inference.catalog import EMBEDDED, ModelCatalog, ModelSpec
from bot.inference.device import DeviceReading, read_device
from bot.inference.inspector import Inspection, Inspector
from bot.inference.memory import gigabytes
from bot.inference.threads import in_own_thread
from bot.ops.findings import Finding, Verdict
from bot.settings import Settings

PATIENCE_S = 15.0  # for one model; most of it is the Hub's
_HELPFUL_CONTEXTS = (32_768, 16_384, 8_192, 4_096, 2_048, 1_024)


def check_models(settings: Settings, catalog: ModelCatalog) -> Iterator[Finding]:
    """One finding for each alias; the Hub is not asked again once it did not answer."""
    loader = model_loader(settings)
    inspector = Inspector(loader, settings.hub_token)
    device = read_device()
    hub_answers = True
    for spec in catalog.values():
        is_default = spec.alias == catalog.default
        here = False
        try:
            here = loader.present(spec) is not None
            if not here and (spec.source == EMBEDDED or not hub_answers):
                yield _absent(spec, is_default, settings.cache_dir, hub_answers=hub_answers)
                continue
            found = asyncio.run(in_own_thread(lambda spec=spec: inspector.look(spec), timeout_s=PATIENCE_S))  # type: ignore[misc]  # a default binds it
        except (HubUnreachable, TimeoutError):
            hub_answers = False
            yield _absent(spec, is_default, settings.cache_dir, hub_answers=False)
        except BotError as error:
            # A fault at the Hub, such as terms to be accepted, may be meant; one on this machine is not.
            at_hub = spec.repository is not None and not here
            verdict = Verdict.WARNING if at_hub else Verdict.FAILED
            yield Finding(verdict, spec.alias, str(error))
        else:
            yield _fits(found, device, needed=here or is_default)


def _absent(spec: ModelSpec, is_default: bool, cache_dir: Path, *, hub_answers: bool) -> Finding:
    how = f"not fetched yet: `python -m bot pull {spec.alias}`, or the first question will wait for it"
    if spec.source == EMBEDDED:
        needed = embedded.CHECKPOINT_BYTES + embedded.WORKING_BYTES
        free = _free_bytes(cache_dir)
        if free < needed:
            how += (
                f"; it needs {needed / 1e6:.0f} MB of disk, and {free / 1e6:.0f} MB are free in {cache_dir}"
            )
            return Finding(Verdict.WARNING, spec.alias, how)
    elif not hub_answers:
        how += "; the Hub cannot be reached to ask what it needs"
    return Finding(Verdict.WARNING if is_default else Verdict.OK, spec.alias, how)


def _fits(found: Inspection, device: DeviceReading, *, needed: bool) -> Finding:
    """Compare with what is free; `needed` says that a model that cannot run at all is a failure."""
    anatomy, spec = found.anatomy, found.spec
    need = anatomy.footprint(anatomy.context_tokens).total_bytes
    where = "this GPU" if device.is_gpu else "this machine"
    text = f"needs about {gigabytes(need)} for {anatomy.context_tokens} tokens"
    text += f"; {where} has {gigabytes(device.total_bytes)}"
    if need > device.total_bytes:
        verdict = Verdict.FAILED if needed else Verdict.WARNING
        return Finding(verdict, spec.alias, f"{text}: {_help(found, device.total_bytes)}")
    if need > device.free_bytes:
        text += f", and {gigabytes(device.free_bytes)} are free now"
        return Finding(
            Verdict.WARNING,
            spec.alias,
            f"{text}: end what else uses it, or {_help(found, device.free_bytes)}",
        )
    if not found.missing_bytes:
        return Finding(Verdict.OK, spec.alias, f"its files are here; {text}")
    from bot.inference import hub

    free = hub.free_disk_bytes()
    text = f"not fetched yet ({gigabytes(found.missing_bytes)}): `python -m bot pull {spec.alias}`; {text}"
    if free < found.missing_bytes:
        text += f"; only {gigabytes(free)} of disk are free: free space, or move the cache with HF_HOME"
        return Finding(Verdict.WARNING, spec.alias, text)
    return Finding(Verdict.WARNING if needed else Verdict.OK, spec.alias, text)


def _help(found: Inspection, room_bytes: int) -> str:
    """What would make it fit, tried out and not guessed."""
    anatomy, spec = found.anatomy, found.spec
    for tokens in _HELPFUL_CONTEXTS:
        if tokens < anatomy.context_tokens and anatomy.footprint(tokens).total_bytes <= room_bytes:
            return f"with context_tokens = {tokens} in the catalogue it would fit"
    if spec.quantization == "none":
        return 'quantization = "nf4" in the catalogue takes about a quarter of the memory'
    return "choose a smaller model"


def _free_bytes(folder: Path) -> int:
    folder = folder.absolute()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
