"""Whether the Hub answers, and gives the files of the catalogue's models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.errors import BotError, HubUnreachable, ModelUnavailable
from bot.inference.catalog import ModelCatalog, ModelSpec
from bot.inference.loader import ModelLoader
from bot.inference.threads import SharedLooks
from bot.ops.checks import PATIENCE_S, Check, NotChecked, Once
from bot.ops.clock import Clock
from bot.ops.findings import Verdict

if TYPE_CHECKING:
    from bot.inference.hub_access import HubAnswer

_LATE = "check the network, HTTPS_PROXY and HF_ENDPOINT"


class HubChecks:
    """The checks that ask the Hub.

    Args:
        token: the operator's, None to ask as nobody.
        loader: knows which models are here already.
        clock: told what time it is at the Hub.
        looks: does what blocks; shared by all who check.
    """

    def __init__(
        self, token: str | None, loader: ModelLoader, clock: Clock, looks: SharedLooks | None = None
    ) -> None:
        self._looks = looks or SharedLooks()
        self._token = token
        self._loader = loader
        self._clock = clock
        self.answer = Once(self._ask)

    def checks(self, catalog: ModelCatalog) -> list[Check]:
        """Whether it answers, and for each model on it, whether its files may be had."""

        def of(spec: ModelSpec) -> Check:
            is_default = spec.alias == catalog.default
            return Check(
                f"access.{spec.alias}",
                f"Hub: {spec.alias}",
                lambda: self._access(spec, is_default=is_default),
                asks="the Hub",
                if_late=_LATE,
            )

        hub = Check("hub", "hub", self._reached, asks="the Hub", if_late=_LATE)
        return [hub, *(of(spec) for spec in catalog.values() if spec.repository is not None)]

    async def _ask(self) -> str | None:
        # Imported on that thread: it takes a second, and the bot may be running.
        def ask() -> HubAnswer:
            from bot.inference.hub_access import ask_hub

            return ask_hub(self._token)

        answer = await self._looks("hub", ask, timeout_s=PATIENCE_S)
        self._clock.note("the Hub", answer.date, answer.asked_at_s, answer.answered_at_s)
        return answer.account

    async def _reached(self) -> tuple[Verdict, str]:
        try:
            account = await self.answer()
        except HubUnreachable as error:
            return Verdict.WARNING, f"{error}; models that are on this disk work without it"
        if self._token is None:
            return (
                Verdict.OK,
                "answers; without HF_TOKEN, it gives no model whose authors want terms accepted",
            )
        return Verdict.OK, f"answers, and HF_TOKEN is valid: {account}"

    async def _access(self, spec: ModelSpec, *, is_default: bool) -> tuple[Verdict, str]:
        if self._loader.present(spec) is not None:
            return Verdict.OK, "its files are here, the Hub need not be asked"
        try:
            await self.answer()
        except (BotError, TimeoutError):
            raise NotChecked("the Hub did not answer, see hub") from None

        def ask() -> None:
            from bot.inference.hub_access import require_access

            require_access(spec, self._token)

        try:
            await self._looks(("access", spec), ask, timeout_s=PATIENCE_S)
        except HubUnreachable as error:
            raise NotChecked(str(error)) from None
        except ModelUnavailable as error:
            # It may be meant that nobody accepted the terms of a model that nobody wants.
            return Verdict.FAILED if is_default else Verdict.WARNING, str(error)
        return Verdict.OK, f"the Hub gives the files of {spec.repository}"
