"""Whether the Hub answers, knows the token, and would give a model's files. Fetches nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # exported lazily

from bot.errors import HubUnreachable, ModelUnavailable
from bot.inference.catalog import ModelSpec
from bot.inference.hub import REQUEST_TIMEOUT_S, explained


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """What the Hub said.

    Attributes:
        account: whose the token is; None without one.
        date: its `Date` header, for comparing clocks.
        asked_at_s, answered_at_s: by this machine's clock.
    """

    account: str | None
    date: str | None
    asked_at_s: float
    answered_at_s: float


def ask_hub(token: str | None) -> HubAnswer:
    """Ask the Hub who we are: the smallest thing it answers. Blocks.

    Raises:
        HubUnreachable: nobody answers, or it was forbidden to ask.
        ModelUnavailable: the token is refused.
    """
    asked_at_s = time.time()
    try:
        answer = get_session().get(
            f"{constants.ENDPOINT}/api/whoami-v2",
            headers=build_hf_headers(token=token or False),
            timeout=REQUEST_TIMEOUT_S,
        )
    except (httpx2.HTTPError, ConnectionError) as error:
        if constants.HF_HUB_OFFLINE:
            raise HubUnreachable("HF_HUB_OFFLINE is set, so that the Hub is not asked: unset it") from None
        raise HubUnreachable(
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}): check the network, HTTPS_PROXY and "
            "HF_ENDPOINT"
        ) from error
    if answer.status_code >= 500:
        raise HubUnreachable(f"{constants.ENDPOINT} answers {answer.status_code}: try again later")
    account = None
    if token is not None:
        if answer.status_code != 200:
            raise ModelUnavailable(
                f"HF_TOKEN was refused by the Hub ({answer.status_code}): make a new one on "
                f"{constants.ENDPOINT}/settings/tokens"
            )
        account = str(answer.json().get("name", ""))
    return HubAnswer(account, answer.headers.get("Date"), asked_at_s, time.time())


def require_access(spec: ModelSpec, token: str | None) -> None:
    """Ask whether a model's files would be given. Blocks.

    Raises:
        HubUnreachable: nobody answers.
        ModelUnavailable: they would not; the authors' terms were not accepted, for one.
    """
    with explained(spec):
        HfApi(token=token or False).auth_check(spec.repository or "")
