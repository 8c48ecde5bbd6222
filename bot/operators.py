"""Who runs the bot: the people who may do more with it than moderators of a server."""

from __future__ import annotations

import logging
from collections.abc import Collection

import discord

log = logging.getLogger(__name__)

_MAY_CHANGE = (discord.TeamMemberRole.admin, discord.TeamMemberRole.developer)


class Operators:
    """Knows the operators: those the settings name, else whom the application belongs to at Discord.

    Args:
        ids: of the people the settings name (`OPERATOR_IDS`).
    """

    def __init__(self, ids: Collection[int] = ()) -> None:
        self._named = frozenset(ids)
        self._ids = self._named

    def learn(self, application: discord.AppInfo | None) -> None:
        """Take in whose the application is; called at each login, when discord.py has asked for that anyway.

        Of a team, it is the owner and those who accepted and may change the application.
        """
        if self._named or application is None:
            return
        if application.team is None:
            self._ids = frozenset({application.owner.id})
        else:
            members = application.team.members
            accepted = [
                one for one in members if one.membership_state is discord.TeamMembershipState.accepted
            ]
            owner_id = application.team.owner_id
            self._ids = frozenset(one.id for one in accepted if one.role in _MAY_CHANGE or one.id == owner_id)
        log.info("the bot has %d operator(s), as its application says", len(self._ids))

    async def is_operator(self, user: discord.abc.Snowflake) -> bool:
        """Whether a person is one. Nobody is before the login, unless the settings name them."""
        return user.id in self._ids
