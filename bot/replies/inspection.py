"""What `/model inspect` shows: a card with the numbers of a model, and the picture of its layers and memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import discord

from bot.errors import InspectionTimeout
from bot.inference.anatomy import Anatomy
from bot.inference.catalog import ModelSpec
from bot.inference.device import read_device
from bot.inference.inspector import Inspection, Inspector
from bot.inference.memory import MemoryReport, gigabytes
from bot.inference.threads import SharedLooks
from bot.replies.anatomy_plot import draw_anatomy, short_bytes, short_count
from bot.replies.limits import fitted
from bot.replies.surface import acknowledge, show_card
from bot.replies.wait import Wait, just_wait

PATIENCE_S = 60.0  # the Hub may be slow, and the first look imports transformers
PICTURE = "anatomy.png"
_COLOUR = 0x5BA4E5


class Inspections:
    """Answers commands that ask what a model is made of.

    Args:
        inspector: looks at the model.
        memory: the report of the engine; its budget is what the model is compared with.
        wait: how to await what does not come from Discord, see `Wait`.
        patience_s: how long a look may take.
    """

    def __init__(
        self,
        inspector: Inspector,
        memory: Callable[[], MemoryReport],
        wait: Wait = just_wait,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._inspector = inspector
        self._memory = memory
        self._wait = wait
        self._patience_s = patience_s
        self._looks = SharedLooks()

    async def show(self, interaction: discord.Interaction[Any], spec: ModelSpec) -> None:
        """Acknowledge, look at the model on a thread, and show what was found. All who ask about the same model
        meanwhile share that look.

        Raises:
            ModelUnavailable: there is nothing to look at.
            InspectionTimeout: it took too long.
        """
        await acknowledge(interaction)
        budget_bytes = self._memory().budget_bytes

        def work() -> tuple[Inspection, bytes]:
            found = self._inspector.look(spec)
            return found, draw_anatomy(found.anatomy, budget_bytes or read_device().total_bytes)

        try:
            look = self._looks(spec, work, timeout_s=self._patience_s)
            found, png = await self._wait(look, reason="a look inside a model")
        except TimeoutError:
            raise InspectionTimeout(
                f"A look at {spec.alias} took longer than {self._patience_s:.0f} s. Please try again later."
            ) from None
        picture = discord.File(io.BytesIO(png), PICTURE, description=described(found.anatomy)[:1024])
        await show_card(interaction, card(found), picture)


def card(found: Inspection) -> discord.Embed:
    """The numbers of a model."""
    anatomy, spec = found.anatomy, found.spec
    embed = discord.Embed(
        title=f"{spec.alias} · {spec.shown_place}", description=spec.description, color=_COLOUR
    )
    embed.add_field(
        name="Architecture",
        value=f"{anatomy.architecture} ({anatomy.model_type})\n{short_count(anatomy.parameters)} parameters",
    )
    embed.add_field(name="Layers", value=_layers(anatomy))
    embed.add_field(name="Context", value=_context(anatomy))
    embed.add_field(name="Vocabulary", value=_vocabulary(anatomy))
    embed.add_field(name="System message", value=_system(anatomy))
    if anatomy.sliding_window:
        layers = len(anatomy.sliding_layers)
        which = "every layer" if layers == anatomy.layers else f"{layers} of {anatomy.layers} layers"
        embed.add_field(name="Sliding window", value=f"{anatomy.sliding_window:,} tokens in {which}")
    if not anatomy.batched:
        embed.add_field(name="Answers", value="one at a time: its layers keep a state that cannot be batched")
    embed.add_field(name="One layer", value=_layer(anatomy), inline=False)
    embed.add_field(name="Memory", value=_memory(anatomy), inline=False)
    if warning := _warning(found):
        embed.add_field(name="Note", value=warning, inline=False)
    return fitted(embed)


def described(anatomy: Anatomy) -> str:
    """The picture in words, for people who do not see it."""
    need = gigabytes(anatomy.footprint(anatomy.context_tokens).total_bytes)
    return (
        f"The layers of {anatomy.alias}: embedding {anatomy.vocabulary.input_size} to {anatomy.hidden_size}, "
        f"{anatomy.layers} layers of attention with {anatomy.attention_heads} heads and an MLP of "
        f"{anatomy.intermediate_size}, output head to {anatomy.vocabulary.output_size}. "
        f"Below, its memory by part: about {need} with {anatomy.context_tokens} tokens."
    )


def _layers(anatomy: Anatomy) -> str:
    """What the picture shows, for people who do not see it."""
    return (
        f"{anatomy.layers} layers of {anatomy.hidden_size:,}\n{anatomy.attention_heads} attention heads, "
        f"MLP of {anatomy.intermediate_size:,}"
    )


def _context(anatomy: Anatomy) -> str:
    built = anatomy.model_context_tokens
    model = f"{built:,} tokens" if built else "not said"
    return f"{anatomy.context_tokens:,} tokens here\nmodel: {model}"


def _vocabulary(anatomy: Anatomy) -> str:
    vocabulary = anatomy.vocabulary
    sizes = f"in {vocabulary.input_size:,} · out {vocabulary.output_size:,}"
    if vocabulary.tied:
        return f"{sizes}\none matrix for both (tied)"
    return f"{sizes}\n{'they agree' if vocabulary.agree else '⚠️ they differ'}"


def _system(anatomy: Anatomy) -> str:
    if anatomy.template is None:
        return "no chat template: a base model"
    return "taken" if anatomy.accepts_system else "not taken: put before the question"


def _layer(anatomy: Anatomy) -> str:
    """The tensors of one layer, in a block; small ones, the norms and biases, in one line each."""
    lines = [
        f"{matrix.name.removesuffix('.weight'):<26} {' × '.join(f'{size:,}' for size in matrix.shape)}"
        for matrix in anatomy.layer
    ]
    shown = lines[:14] + ([f"and {len(lines) - 14} more"] if len(lines) > 14 else [])
    return "```\n" + "\n".join(shown)[:1000] + "\n```"


def _memory(anatomy: Anatomy) -> str:
    footprint = anatomy.footprint(anatomy.context_tokens)
    return (
        f"about **{gigabytes(footprint.total_bytes)}** with {anatomy.context_tokens:,} tokens: "
        f"weights {short_bytes(footprint.weights_bytes)}, KV cache {short_bytes(footprint.cache_bytes)}, "
        f"up to {short_bytes(footprint.working_bytes)} while it reads a prompt of that length"
    )


def _warning(found: Inspection) -> str:
    lines = []
    if found.missing_bytes:
        lines.append(f"Not on this disk yet: {short_bytes(found.missing_bytes)} would be fetched.")
    if found.anatomy.stored_parameters != found.anatomy.parameters:
        lines.append(
            f"⚠️ Its files hold {found.anatomy.stored_parameters:,} numbers, and the architecture has "
            f"{found.anatomy.parameters:,} parameters."
        )
    return "\n".join(lines)
