"""What `check` says about Discord: real discord.py, over HTTP, with a server in Discord's place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import discord
import pytest

from bot.discord_needs import INTENTS, PERMISSIONS
from bot.ops.checks import run_checks
from bot.ops.clock import Clock
from bot.ops.discord_checks import logged_in_checks
from bot.ops.findings import Finding, Verdict
from bot.settings import load_settings
from tests.ops.discord_side import APPLICATION_ID, SERVER_ID, DiscordSide, serving

TOKEN = "part-one.part_2.part3"
MESSAGE_CONTENT, MESSAGE_CONTENT_LIMITED, MEMBERS_LIMITED = 1 << 18, 1 << 19, 1 << 15


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Iterator[DiscordSide]:
    with serving(DiscordSide(), monkeypatch) as side:
        yield side


async def found(
    server_id: int | None = None,
    *,
    token: str | None = TOKEN,
    clock: Clock | None = None,
    intents: discord.Intents = INTENTS,
) -> dict[str, Finding]:
    settings = load_settings(None, discord_token=token)
    async with logged_in_checks(settings, clock or Clock()) as checks:
        checks._intents = intents
        return {finding.id: finding async for finding in run_checks(checks.checks(server_id))}


async def test_a_valid_token_is_told_with_whose_it_is_and_asked_for_once(side: DiscordSide) -> None:
    findings = await found()
    assert list(findings) == ["token", "intents", "invite"]
    assert {finding.verdict for finding in findings.values()} == {Verdict.OK}
    assert findings["token"].text == f"valid: Punchline of the application {APPLICATION_ID}"
    assert side.asked == ["/users/@me", "/oauth2/applications/@me"]


async def test_a_refused_token_fails_with_the_page_and_what_depends_on_it_is_not_checked(
    side: DiscordSide,
) -> None:
    side.status = 401
    findings = await found(SERVER_ID)
    assert findings["token"].verdict is Verdict.FAILED
    assert "DISCORD_TOKEN was refused" in findings["token"].text
    assert "https://discord.com/developers/applications" in findings["token"].text
    for name in ("intents", "invite", "server"):
        assert findings[name].verdict is Verdict.WARNING
        assert findings[name].text == "not checked: the bot could not log in, see token"
    assert not any(TOKEN in finding.text for finding in findings.values())


async def test_a_missing_token_is_a_warning_because_the_demo_needs_none() -> None:
    findings = await found(token=None)
    assert findings["token"].verdict is Verdict.WARNING
    assert findings["token"].text.startswith("DISCORD_TOKEN is not set: ")


async def test_discord_out_of_reach_fails_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr("discord.http.Route.BASE", f"http://127.0.0.1:{taken.getsockname()[1]}")
        token = (await found())["token"]
    assert token.verdict is Verdict.FAILED
    assert "cannot be reached" in token.text
    assert "discord.com:443" in token.text


async def test_a_discord_that_does_not_answer_is_waited_for_no_longer_than_said(
    side: DiscordSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.hangs = True
    async with logged_in_checks(load_settings(None, discord_token=TOKEN), Clock()) as checks:
        (token, *_) = checks.checks(None)
        object.__setattr__(token, "patience_s", 0.1)
        finding = await asyncio.wait_for(token.finding(), 10)
    assert finding.verdict is Verdict.FAILED
    assert "no answer within 0 s: check the network" in finding.text


@pytest.mark.parametrize("flags", [MESSAGE_CONTENT, MESSAGE_CONTENT_LIMITED])
async def test_an_intent_that_the_bot_asks_for_and_has_is_ok_whatever_the_size_of_the_bot(
    side: DiscordSide, flags: int
) -> None:
    side.flags = flags
    wanted = discord.Intents(guilds=True, message_content=True)
    intents = (await found(intents=wanted))["intents"]
    assert (intents.verdict, intents.text) == (Verdict.OK, "those the bot asks for are granted")


async def test_an_intent_that_is_not_granted_fails_with_the_page_to_switch_it_on(side: DiscordSide) -> None:
    intents = (await found(intents=discord.Intents(guilds=True, message_content=True)))["intents"]
    assert intents.verdict is Verdict.FAILED
    assert "not granted: Message Content" in intents.text
    assert f"applications/{APPLICATION_ID}/bot" in intents.text


async def test_the_bot_as_it_is_needs_none_and_says_which_could_be_switched_off(side: DiscordSide) -> None:
    side.flags = MEMBERS_LIMITED
    intents = (await found())["intents"]
    assert intents.verdict is Verdict.OK
    assert intents.text.startswith("the bot asks for no privileged one; granted and not needed: Members")


async def test_the_invite_link_asks_for_what_the_readme_says(side: DiscordSide) -> None:
    invite = (await found())["invite"]
    for part in (
        f"client_id={APPLICATION_ID}",
        "permissions=274878024704",
        "scope=bot+applications.commands",
    ):
        assert part in invite.text
    side.public = False
    assert "only you can add the bot" in (await found())["invite"].text


async def test_a_server_where_everything_is_allowed_is_ok(side: DiscordSide) -> None:
    server = (await found(SERVER_ID))["server"]
    assert (server.verdict, server.text) == (
        Verdict.OK,
        f"everything is allowed in the server {SERVER_ID}",
    )


async def test_a_server_that_the_bot_is_not_in_fails_with_a_link_that_names_it(side: DiscordSide) -> None:
    side.in_server = False
    server = (await found(SERVER_ID))["server"]
    assert server.verdict is Verdict.FAILED
    assert f"guild_id={SERVER_ID}" in server.text


@pytest.mark.parametrize(
    ("taken", "verdict", "words"),
    [
        (discord.Permissions(send_messages=True), Verdict.FAILED, "no Send Messages in"),
        (discord.Permissions(attach_files=True), Verdict.WARNING, "no Attach Files in"),
    ],
)
async def test_what_the_bot_may_not_do_in_a_server_is_named_and_fails_if_it_could_not_answer(
    side: DiscordSide, taken: discord.Permissions, verdict: Verdict, words: str
) -> None:
    side.permissions = PERMISSIONS.value & ~taken.value
    server = (await found(SERVER_ID))["server"]
    assert server.verdict is verdict
    assert words in server.text
    assert "discord.com/oauth2/authorize" in server.text


async def test_channels_in_which_it_may_not_write_are_told_and_may_be_meant(side: DiscordSide) -> None:
    side.permissions = PERMISSIONS.value
    side.denied = {1: discord.Permissions(send_messages=True).value}
    server = (await found(SERVER_ID))["server"]
    assert server.verdict is Verdict.OK
    assert server.text.endswith("it may not write in 1 of 3 text channels: 301")


@pytest.mark.parametrize(
    ("ahead_s", "verdict"),
    [(0, Verdict.OK), (-20, Verdict.WARNING), (20, Verdict.WARNING), (300, Verdict.FAILED)],
)
async def test_the_clock_is_compared_with_discords(
    side: DiscordSide, ahead_s: float, verdict: Verdict
) -> None:
    side.ahead_s = ahead_s
    clock = Clock()
    await found(clock=clock)
    told = clock.verdict()
    assert told is not None
    assert told[0] is verdict
    if ahead_s:
        assert f"{'behind' if ahead_s > 0 else 'ahead of'} Discord: " in told[1]
        assert "timedatectl set-ntp true" in told[1]


async def test_a_server_that_is_named_is_the_only_reason_to_ask_about_servers(side: DiscordSide) -> None:
    await found()
    assert not any("guilds" in path for path in side.asked)
