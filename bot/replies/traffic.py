"""Who may send to Discord next: one line for each bucket, shared by all replies that stream there. Pure.

Nothing here waits. A reply enters a claim, asks how long it is to wait, and takes the claim when that is 0. So each
reply has one place where it waits, and what is newest then is what is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from bot.inference.observer import UNOBSERVED, Observer
from bot.replies.budget import BUCKET_REQUESTS, BUCKET_WINDOW_S, Budget
from bot.replies.limit import GlobalLimit

EVERYWHERE_REQUESTS = (
    45  # a second, of Discord's 50: the cards of other commands and the typing line need some too
)
# Discord's window begins when a message arrives, ours when it is sent. Of several that are sent at once, each over a
# connection of its own, the first may arrive by so much later than one that is sent alone when the window ends.
ON_THE_WAY_S = 0.2
_PATIENCE_S = 4.0  # who has waited longer may take what is kept for ends


class Worth(IntEnum):
    """What a request is for. The value is how many seconds of waiting it is worth: bounded, so that nobody starves."""

    STATUS = -12
    WORDS = 0
    FIRST_WORDS = 8
    END = 600


@dataclass(frozen=True, slots=True)
class Bucket:
    """What Discord counts together.

    Attributes:
        name: what tells it from others.
        shared: whether other replies use it too, as they do a channel's.
    """

    name: str
    shared: bool = False

    @classmethod
    def of_acknowledgement(cls, interaction_id: int) -> Bucket:
        """The first response to an interaction."""
        return cls(f"acknowledgement {interaction_id}")

    @classmethod
    def of_interaction(cls, interaction_id: int) -> Bucket:
        """All messages of one interaction, new and edited."""
        return cls(f"interaction {interaction_id}")

    @classmethod
    def of_new_messages(cls, channel_id: int) -> Bucket:
        """New messages in a channel."""
        return cls(f"new {channel_id}", shared=True)

    @classmethod
    def of_edits(cls, channel_id: int) -> Bucket:
        """Edits of messages in a channel with the bot's own token."""
        return cls(f"edit {channel_id}", shared=True)

    @property
    def acknowledges(self) -> bool:
        """Whether it is for the first response to an interaction."""
        return self.name.startswith("acknowledgement ")

    def budget(self) -> Budget:
        """A budget for it. New messages come at once while there is room; edits are spread out."""
        if self.name.startswith("new "):
            return Budget(window_s=BUCKET_WINDOW_S + ON_THE_WAY_S)
        return Budget(reserve=1, spacing_s=BUCKET_WINDOW_S / BUCKET_REQUESTS if self.shared else 0.0)


@dataclass(eq=False, slots=True)
class Claim:
    """A request that somebody wants to make.

    Attributes:
        bucket: where.
        worth: what for.
        since_s: since when whoever reads has seen nothing new.
        moved: called when somebody ahead has left the line, and the wait may be shorter.
    """

    bucket: Bucket
    worth: Worth
    since_s: float
    moved: Callable[[], None] = lambda: None

    @property
    def key(self) -> float:
        """The smallest is first."""
        return self.since_s - self.worth

    @property
    def purpose(self) -> str:
        """What it is for, in a word: as its worth says; an acknowledgement is worth as much as an end."""
        return "acknowledgement" if self.bucket.acknowledges else self.worth.name.lower()

    @property
    def urgent(self) -> bool:
        """Whether nothing may come before it."""
        return self.worth is Worth.END

    def impatient_in_s(self, now_s: float) -> float:
        """How long until it may take what is kept in reserve; 0 when it may."""
        return 0.0 if self.urgent else max(0.0, self.since_s + _PATIENCE_S - now_s)


class Traffic:
    """The lines of all buckets, under the limit for the whole bot.

    Args:
        observer: who looks on.
    """

    def __init__(self, observer: Observer = UNOBSERVED) -> None:
        self._observer = observer
        self._everywhere = GlobalLimit(EVERYWHERE_REQUESTS)
        self._budgets: dict[Bucket, Budget] = {}
        self._claims: list[Claim] = []

    def enter(self, claim: Claim) -> None:
        """Stand in line."""
        self._claims.append(claim)

    def wait_s(self, claim: Claim, now_s: float) -> float:
        """How long until it is worth asking again, as things are; 0 when the claim may be taken."""
        ahead = [one for one in self._claims if one.key < claim.key]
        wait_s = self._bucket_wait_s(claim, now_s, ahead=sum(one.bucket == claim.bucket for one in ahead))
        if wait_s > 0:
            impatient_s = claim.impatient_in_s(now_s)
            return min(wait_s, impatient_s) if impatient_s > 0 else wait_s
        ready = sum(self._bucket_wait_s(one, now_s) == 0 for one in ahead)
        return self._everywhere.wait_s(now_s, ahead=ready)

    def take(self, claim: Claim, now_s: float) -> None:
        """The request is made now; `answered` is to be called when it is over."""
        self._claims.remove(claim)
        self._everywhere.sent()
        self._observer.sent(claim.purpose, max(0.0, now_s - claim.since_s))
        self._budget(claim.bucket, now_s).spend(now_s)

    def answered(self, now_s: float) -> None:
        """A request that was made is over, whatever came of it."""
        self._everywhere.answered(now_s)

    def leave(self, claim: Claim) -> None:
        """The request is not made after all; those behind hear of it."""
        if claim in self._claims:
            self._claims.remove(claim)
            for one in self._claims:
                if one.key > claim.key:
                    one.moved()

    def _bucket_wait_s(self, claim: Claim, now_s: float, ahead: int = 0) -> float:
        reserved = claim.impatient_in_s(now_s) == 0
        budget = self._budget(claim.bucket, now_s)
        return budget.wait_s(now_s, urgent=claim.urgent, reserved=reserved, ahead=ahead)

    def _budget(self, bucket: Bucket, now_s: float) -> Budget:
        if bucket not in self._budgets:
            claimed = {claim.bucket for claim in self._claims}
            idle = [
                one for one, budget in self._budgets.items() if budget.is_idle(now_s) and one not in claimed
            ]
            for one in idle:
                del self._budgets[one]
            self._budgets[bucket] = bucket.budget()
        return self._budgets[bucket]
