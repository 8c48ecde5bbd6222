"""Who may do more than moderators."""

from __future__ import annotations

from typing import Any

import discord

from bot.inference.scripted import ScriptedEngine
from bot.operators import Operators
from tests.world import open_world

OWNER, ADMIN, DEVELOPER, READER, INVITED, STRANGER = range(1, 7)


def application(**values: Any) -> discord.AppInfo:
    """As Discord describes one; discord.py makes the rest of it from the same answer."""
    about: dict[str, Any] = {
        "id": "9",
        "name": "Punchline",
        "icon": None,
        "description": "",
        "bot_public": True,
    }
    about |= {"bot_require_code_grant": False, "verify_key": "", "owner": user(OWNER), **values}
    state: Any = discord.Client(intents=discord.Intents.none())._connection
    return discord.AppInfo(state, about)  # type: ignore[arg-type]


def user(user_id: int) -> dict[str, Any]:
    return {"id": str(user_id), "username": f"user{user_id}", "discriminator": "0", "avatar": None}


def member(user_id: int, role: str, *, accepted: bool = True) -> dict[str, Any]:
    return {"user": user(user_id), "role": role, "membership_state": 2 if accepted else 1, "team_id": "8"}


def team() -> dict[str, Any]:
    members = [
        member(OWNER, "admin"),
        member(ADMIN, "admin"),
        member(DEVELOPER, "developer"),
        member(READER, "read_only"),
        member(INVITED, "admin", accepted=False),
    ]
    return {"id": "8", "name": "us", "icon": None, "owner_user_id": str(OWNER), "members": members}


async def operators_among(operators: Operators) -> set[int]:
    return {one for one in range(1, 7) if await operators.is_operator(discord.Object(one))}


async def test_the_people_that_the_settings_name_are_operators_and_nobody_else() -> None:
    operators = Operators([STRANGER])
    assert await operators_among(operators) == {STRANGER}
    operators.learn(application())
    assert await operators_among(operators) == {STRANGER}


async def test_without_names_it_is_the_owner_of_the_application() -> None:
    operators = Operators()
    operators.learn(application())
    assert await operators_among(operators) == {OWNER}


async def test_of_a_team_it_is_those_who_accepted_and_may_change_the_application() -> None:
    operators = Operators()
    operators.learn(application(team=team()))
    assert await operators_among(operators) == {OWNER, ADMIN, DEVELOPER}


async def test_an_owner_whose_team_role_says_less_is_still_one() -> None:
    smaller = team() | {"members": [member(OWNER, "read_only")]}
    operators = Operators()
    operators.learn(application(team=smaller))
    assert await operators_among(operators) == {OWNER}


async def test_before_the_login_nobody_is() -> None:
    operators = Operators()
    assert await operators_among(operators) == set()


async def test_a_bot_that_has_logged_in_knows_whose_it_is(tmp_path: Any) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        operators = world.bot.services.operators
        assert world.bot.application is not None
        assert await operators.is_operator(world.bot.application.owner)
        assert not await operators.is_operator(discord.Object(world.alice.id))
    async with open_world(ScriptedEngine(), tmp_path, operator_ids=(STRANGER,)) as world:
        operators = world.bot.services.operators
        assert await operators.is_operator(discord.Object(STRANGER))
        assert world.bot.application is not None
        assert not await operators.is_operator(world.bot.application.owner)
