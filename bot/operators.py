"""Who runs the bot: the people who may do more with it than moderators of a server."""

from __future__ import annotations

import logging
from collections.abc import Collection

import discord

from bot.errors import NotAllowed

log = logging.getLogger(__name__)

_MAY_CHANGE = (discord.TeamMemberRole.admin, discord.TeamMemberRole.developer)


class Operators:
    """Knows the operators: those the settings name, else whom the application belongs to at Discord.

    Args:
        ids: of the people the settings name (`OPERATOR_IDS`).
    """

    def __init__(self, ids: Collection[int] = ()) -> None:
        self._named = frozenset(ids)
        self._owners: frozenset[int] = frozenset()

    def learn(self, application: discord.AppInfo | None) -> None:
        """Take in whose the application is; called at each login, when discord.py has asked for that anyway.

        Of a team, it is the owner and those who accepted and may change the application.
        """
        if application is None:
            return
        if application.team is None:
            self._owners = frozenset({application.owner.id})
        else:
            members = application.team.members
            accepted = [
                one for one in members if one.membership_state is discord.TeamMembershipState.accepted
            ]
            owner_id = application.team.owner_id
            self._owners = frozenset(
                one.id for one in accepted if one.role in _MAY_CHANGE or one.id == owner_id
            )
        if not self._named:
            log.info("the bot has %d operator(s), as its application says", len(self._owners))

    def name(self, ids: Collection[int]) -> None:
        """Have these be the operators; with none of them, those of the application again."""
        self._named = frozenset(ids)

    async def is_operator(self, user: discord.abc.Snowflake) -> bool:
        """Whether a person is one. Nobody is before the login, unless the settings name them."""
        return user.id in (self._named or self._owners)

    async def require(self, user: discord.abc.Snowflake) -> None:
        """Let pass an operator.

        Raises:
            NotAllowed: the person is none.
        """
        if not await self.is_operator(user):
            raise NotAllowed("Only the people who run the bot can do that.")
