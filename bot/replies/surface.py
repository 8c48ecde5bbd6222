"""Where a reply is shown: its messages, a page each, by an interaction's token or by the bot's own.

The only place that sends and edits answers. Nothing here ever pings: `AllowedMentions.none()` goes with every call,
because an edit sent without it is parsed for mentions again.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import aiohttp
import discord

from bot.replies.traffic import Bucket

CALL_TIMEOUT_S = 30.0  # discord.py waits out rate limits inside a call; past this the call is given up
TOKEN_LIFE_S = 15 * 60.0  # of an interaction's token, Discord API v10
_MARGIN_S = 60.0
_DEAD_TOKEN = (50027, 10015)  # Invalid Webhook Token, Unknown Webhook
_ACKNOWLEDGED_ALREADY = 40060
_ATTEMPTS = 3  # to acknowledge, where nobody knows whether Discord got it

TROUBLE = (discord.HTTPException, aiohttp.ClientError, TimeoutError, OSError)  # what a call may raise

_NOBODY = discord.AllowedMentions.none()


class Surface(Protocol):
    """The messages of one reply."""

    message_ids: list[int]  # by page; what is not known yet is not there
    acknowledged_in: (
        Bucket | None
    )  # what Discord counts an acknowledgement under; None if there is none to make
    ends_at_s: (
        float | None
    )  # when nothing can be shown here any more, by the event loop's clock; None for never

    async def acknowledge(self) -> None:
        """Tell whoever asked that an answer is coming."""
        ...

    def bucket(self, page: int) -> Bucket:
        """What Discord counts the next showing of a page under."""
        ...

    async def show(
        self, page: int, content: str, view: discord.ui.View | None, file: str | None = None
    ) -> None:
        """Show `content` as page number `page`; pages are begun in order, from 0. A new page may bring a file.

        Raises:
            discord.HTTPException: Discord refused.
            TimeoutError: it took longer than `CALL_TIMEOUT_S`.
        """
        ...

    async def show_buttons(self, page: int, view: discord.ui.View | None) -> None:
        """Put other buttons under a page that stands there, whatever it says.

        Raises:
            discord.HTTPException: Discord refused.
            TimeoutError: it took longer than `CALL_TIMEOUT_S`.
        """
        ...


async def acknowledge(interaction: discord.Interaction[Any]) -> int | None:
    """Tell Discord within its 3 s that an answer is coming; people see "thinking…". The message's id, where told.

    Where the connection broke it is told again; "already acknowledged" then means that it got it the first time.
    """
    if interaction.response.is_done():
        return None
    async with asyncio.timeout(CALL_TIMEOUT_S):
        for attempt in range(_ATTEMPTS):
            try:
                told = await interaction.response.defer(thinking=True)
                return None if told is None else told.message_id
            except (aiohttp.ClientError, OSError):
                if attempt == _ATTEMPTS - 1:
                    raise
            except discord.HTTPException as error:
                if not was_told_already(error):
                    raise
                break
    return None


def was_told_already(error: BaseException) -> bool:
    """Whether Discord has the answer that it refuses: it came twice, because the first time was not confirmed."""
    return isinstance(error, discord.HTTPException) and error.code == _ACKNOWLEDGED_ALREADY


async def show_card(
    interaction: discord.Interaction[Any], embed: discord.Embed, picture: discord.File | None = None
) -> None:
    """Answer an acknowledged interaction with a card, and a picture above it.

    Where Discord refuses the picture, the card comes alone and says so.

    Raises:
        discord.HTTPException: Discord refused.
        TimeoutError: it took longer than `CALL_TIMEOUT_S`.
    """
    async with asyncio.timeout(CALL_TIMEOUT_S):
        try:
            files = [] if picture is None else [picture]
            await interaction.edit_original_response(embed=embed, attachments=files, allowed_mentions=_NOBODY)
        except discord.HTTPException as error:
            if picture is None or not 400 <= error.status < 500:
                raise
            embed.set_footer(text="There is a picture too, where the bot has the permission Attach Files.")
            await interaction.edit_original_response(embed=embed, allowed_mentions=_NOBODY)


class ChannelSurface:
    """Messages in a channel, sent and edited with the bot's own token.

    Args:
        channel: where.
        asked_in: the message that is answered, if one is.
        filesize_limit: the most bytes of a file there.
        message_ids: those that are there already.

    Attributes:
        channel: the same.
    """

    acknowledged_in: Bucket | None = None
    ends_at_s: float | None = None

    def __init__(
        self,
        channel: discord.PartialMessageable,
        *,
        asked_in: discord.MessageReference | None = None,
        filesize_limit: int = discord.utils.DEFAULT_FILE_SIZE_LIMIT_BYTES,
        message_ids: Sequence[int] = (),
    ) -> None:
        self.message_ids = list(message_ids)
        self.channel = channel
        self._asked_in = asked_in
        self._filesize_limit = filesize_limit
        self._nonce = secrets.token_hex(8)

    async def acknowledge(self) -> None:
        """Nothing to do: whoever writes a message is not kept waiting by Discord."""

    def bucket(self, page: int) -> Bucket:
        """See `Surface.bucket`."""
        channel_id = self.channel.id
        is_new = page >= len(self.message_ids)
        return Bucket.of_new_messages(channel_id) if is_new else Bucket.of_edits(channel_id)

    async def show(
        self, page: int, content: str, view: discord.ui.View | None, file: str | None = None
    ) -> None:
        """See `Surface.show`."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            if page < len(self.message_ids):
                message = self.channel.get_partial_message(self.message_ids[page])
                await message.edit(content=content, view=view, allowed_mentions=_NOBODY)
                return
            more: dict[str, Any] = {} if view is None else {"view": view}
            if page == 0 and self._asked_in is not None:
                more["reference"] = self._asked_in
            files = _attached(file, self._filesize_limit)
            # Told a second time, because the first was not confirmed, Discord makes no second message of it.
            nonce = f"{self._nonce}-{page}"
            sent = await self.channel.send(
                content, files=files, allowed_mentions=_NOBODY, nonce=nonce, **more
            )
            if sent.content.strip() != content.strip():  # it is the first one
                await sent.edit(content=content, view=view, allowed_mentions=_NOBODY)
            self.message_ids.append(sent.id)

    async def show_buttons(self, page: int, view: discord.ui.View | None) -> None:
        """See `Surface.show_buttons`."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            message = self.channel.get_partial_message(self.message_ids[page])
            await message.edit(view=view, allowed_mentions=_NOBODY)

    async def read(self, page: int) -> str:
        """What a page says in Discord now.

        Raises:
            discord.HTTPException: it is gone, or may not be read.
            TimeoutError: it took longer than `CALL_TIMEOUT_S`.
        """
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return (await self.channel.fetch_message(self.message_ids[page])).content


class InteractionSurface:
    """The original response of an interaction and its follow-up messages.

    The interaction's token lives for 15 minutes. Before they are over, the messages go on with the bot's own token
    where it may do that: in a direct message with it, and in a server it is a member of and a channel it sees.
    Elsewhere (a command that a person installed for themselves) the surface says when it ends.

    Args:
        interaction: acknowledged or not.
    """

    def __init__(self, interaction: discord.Interaction[Any]) -> None:
        self.message_ids: list[int] = []
        self.acknowledged_in: Bucket | None = Bucket.of_acknowledgement(interaction.id)
        self._interaction = interaction
        ends_at_s = asyncio.get_running_loop().time() + TOKEN_LIFE_S - _MARGIN_S
        self._channel = own_channel(interaction)
        self._hands_over_at_s = ends_at_s
        self.ends_at_s = ends_at_s if self._channel is None else None

    async def acknowledge(self) -> None:
        """See `Surface.acknowledge`."""
        if (message_id := await acknowledge(self._interaction)) is not None:
            self.message_ids.append(message_id)

    def bucket(self, page: int) -> Bucket:
        """See `Surface.bucket`."""
        own = self._handed_over()
        return Bucket.of_interaction(self._interaction.id) if own is None else own.bucket(page)

    async def show(
        self, page: int, content: str, view: discord.ui.View | None, file: str | None = None
    ) -> None:
        """See `Surface.show`."""
        if (own := self._handed_over()) is None:
            try:
                await self._show(page, content, view, file)
                return
            except discord.HTTPException as error:
                if self._channel is None or not (error.code in _DEAD_TOKEN or error.status == 401):
                    raise
            self._hands_over_at_s = 0.0  # the token died early
            own = self._handed_over()
        assert own is not None  # noqa: S101  there is a channel
        await own.show(page, content, view, file)
        self.message_ids = own.message_ids

    async def show_buttons(self, page: int, view: discord.ui.View | None) -> None:
        """See `Surface.show_buttons`."""
        if (own := self._handed_over()) is not None:
            await own.show_buttons(page, view)
            return
        async with asyncio.timeout(CALL_TIMEOUT_S):
            followup, message_id = self._interaction.followup, self.message_ids[page]
            await followup.edit_message(message_id, view=view, allowed_mentions=_NOBODY)

    def _handed_over(self) -> ChannelSurface | None:
        """The same messages under the bot's own token, once the interaction's is about to end."""
        if self._channel is None or not self.message_ids:
            return None
        if asyncio.get_running_loop().time() < self._hands_over_at_s:
            return None
        limit = self._interaction.filesize_limit
        return ChannelSurface(self._channel, filesize_limit=limit, message_ids=self.message_ids)

    async def _show(self, page: int, content: str, view: discord.ui.View | None, file: str | None) -> None:
        interaction = self._interaction
        async with asyncio.timeout(CALL_TIMEOUT_S):
            if page == 0:
                message = await interaction.edit_original_response(
                    content=content, view=view, allowed_mentions=_NOBODY
                )
                if not self.message_ids:
                    self.message_ids.append(message.id)
            elif page < len(self.message_ids):
                await interaction.followup.edit_message(
                    self.message_ids[page], content=content, view=view, allowed_mentions=_NOBODY
                )
            else:
                buttons: Any = discord.utils.MISSING if view is None else view
                files = _attached(file, interaction.filesize_limit)
                sent = await interaction.followup.send(
                    content, view=buttons, files=files, allowed_mentions=_NOBODY, wait=True
                )
                self.message_ids.append(sent.id)


def own_channel(interaction: discord.Interaction[Any]) -> discord.PartialMessageable | None:
    """The channel, if the bot may show things there with its own token too."""
    if interaction.channel_id is None or interaction.context.private_channel:
        return None
    if interaction.guild_id is not None:
        is_member = interaction.client.get_guild(interaction.guild_id) is not None
        if not is_member or not interaction.app_permissions.view_channel:
            return None
    channel: discord.PartialMessageable = interaction.client.get_partial_messageable(
        interaction.channel_id, guild_id=interaction.guild_id
    )
    return channel


def _attached(text: str | None, limit_bytes: int) -> list[discord.File]:
    """The text as a file, as much of it as may be uploaded, with no character cut in half."""
    if text is None:
        return []
    part = text.encode()[:limit_bytes].decode(errors="ignore")
    return [discord.File(io.BytesIO(part.encode()), "rest.md")]
