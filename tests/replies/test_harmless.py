"""What a model writes cannot deceive: links say where they lead, and nothing turns the text around."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.replies.harmless import GROWS, growth, with_plain_links
from bot.replies.pages import split_pages, units
from tests.replies.discord_markdown import invitations, live, masked_links, mentions

CASES = int(os.environ.get("PROPERTY_CASES", "2000"))  # continuous integration: 20,000


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[your bank](https://evil.example)", "[your bank]\\(https://evil.example)"),
        (
            "[x](<https://evil.example>) and [y](http://b.example)",
            "[x]\\(<https://evil.example>) and [y]\\(http://b.example)",
        ),
        ("see https://example.org/(a)", "see https://example.org/(a)"),
        ("f[i](j) and [1](2)", "f[i](j) and [1](2)"),
        ("join https://discord.gg/abc now", "join <https://discord.gg/abc> now"),
        ("<https://discord.com/invite/abc>", "<https://discord.com/invite/abc>"),
        ("`[x](https://a.example)`", "`[x](https://a.example)`"),
        (
            "```\n[x](https://a.example)\n```\n[x](https://a.example)",
            "```\n[x](https://a.example)\n```\n[x]\\(https://a.example)",
        ),
        # Ordinary answers about links: their code is left alone.
        ("**Write** `[a](https://b.c)`, *not* `a`.", "**Write** `[a](https://b.c)`, *not* `a`."),
        ("1. Use `[a](https://b.c)`\n2. [x] done", "1. Use `[a](https://b.c)`\n2. [x] done"),
        ("So [1](2): ```md\n[a](https://b.c)\n```", "So [1](2): ```md\n[a](https://b.c)\n```"),
        ("See https://b.c/d_e and `[a](https://b.c)`", "See https://b.c/d_e and `[a](https://b.c)`"),
        # Discord takes backslashes and angle brackets out of a target, and white space before it.
        ("[x](https\\://a.example)", "[x]\\(https\\://a.example)"),
        ("[x](\n <https://a.example>)", "[x]\\(\n <https://a.example>)"),
        ("[x\\](https://a.example)", "[x\\]\\(https://a.example)"),
    ],
)
def test_links_are_shown_as_they_are_and_code_is_left_alone(written: str, shown: str) -> None:
    assert with_plain_links(written) == shown
    assert not masked_links(shown)


LINK = "[your bank](https://evil.example)"


@pytest.mark.parametrize(
    "written",
    [
        f"~~~\n{LINK}\n~~~",  # no fence in Discord
        f"`a``{LINK}```b",  # three openings and no end
        f"``` ok ```\n{LINK}\n```",  # the block ends in its line
        f"`\\`{LINK}`",  # a backslash does nothing in code
        f"\\`{LINK}`",  # and makes a backtick a letter outside of it
        f"**a ` ** {LINK} `",  # bold words end inside what would be code
        f"*a ` b* {LINK} `",
        f"_a ` b_ {LINK} `",
        f"__a ` b__ {LINK} `",
        f"~~a ` b~~ {LINK} `",
        f"||a ` b|| {LINK} `",
        "[a `b](https://evil.example) c`",  # the label of a link begins before the code
        f"[a `b](j) {LINK} c`",
        f"https://a.example/` {LINK} `",  # the backtick belongs to the address
        f"<a:/`> {LINK} `",
        f"# a ```\n{LINK}\n```",  # a heading ends with its line, and the block in it was none
        f"-# a ```\n{LINK}\n```",
        f"> a ```\n{LINK}\n```",
        f"- a ```\n{LINK}\n```",
        f"# **a\nb** ` ** {LINK} `",
        f"[a](`https://b.c(j) {LINK} `",  # the target that begins before the code is none, and takes its mark
    ],
)
def test_what_only_looks_like_code_hides_no_link(written: str) -> None:
    assert masked_links(written), "the reader that judges sees no link here"
    assert not masked_links(with_plain_links(written))
    assert not any(masked_links(page.content) for page in split_pages(f"{'word ' * 9}{written}", 64))


@pytest.mark.parametrize("deceit", ["discord.gg/abc", "<@1>", "https://discord.gg/abc"])
@pytest.mark.parametrize(
    "around",
    [
        "[`{}`](j)",
        "[a\n``# {} ><> ``](\n\n[x](https://evil.example)",
        "[`a` `{}` b](y)",
        "[[`{}`] b](j) `c`",
        "[`a ]`, `{}`](j)",
    ],
)
def test_what_looks_like_code_in_a_link_without_a_scheme_is_none(around: str, deceit: str) -> None:
    written = around.replace("{}", deceit)
    assert live(written), "the reader that judges sees code here"
    assert not live(with_plain_links(written))


def test_code_around_a_link_without_a_scheme_is_left_alone() -> None:
    text = "`<@1>`, [`read()`](#read) and `<@2>`"
    assert with_plain_links(text) == text


def test_where_a_page_begins_in_code_its_links_are_judged_as_its_own() -> None:
    text = "```md\n" + f"{LINK}\n" * 12 + f"```\n{LINK}"
    pages = [page.content for page in split_pages(text, 200)]
    assert len(pages) > 2
    assert not any(masked_links(page) for page in pages)
    assert all(LINK in page for page in pages[:-1])  # it is left as it is where it is code


INVITATIONS = [
    "https://discord.gg/abc",
    "http://discord.com/invite/abc",
    "HTTPS://DISCORD.GG/abc",
    "https://Discord.Com/Invite/abc",
    "https://www.discord.gg/abc",
    "https://ptb.discord.com/invite/abc",
    "https://canary.discordapp.com/invite/abc",
    "https://discord.gg/invite/abc",
    "https://discord.gg:443/abc",
    "https://discord.gg./abc",
    "https://:.discord.gg/abc",
    "https://name:word@discord.gg/abc",
    "https://a>@discord.gg/abc",
    "https://%64iscord.gg/abc",
    "https://discord%2Egg/abc",
    "https://discord.gg/%61bc",
    "https://ｄｉｓｃｏｒｄ.gg/abc",
    "https://discord。gg/abc",
    "https://𝐝iscord.gg/abc",
    "https://discord.gg\\abc",
    "https:///discord.gg/abc",
    "https://discord.com/a/../invite/abc",
    "https://discord.com/%69nvite/abc",
    "https://example.org/?to=https://discord.gg/abc",
    "<https://discord.gg/abc",
    "discord.gg/abc",
    "Discord.GG/abc",
    "discord.gg\\abc",
    "www.discord.gg/abc",
    "discord.com/invite/abc",
    "discordapp.com/invite/abc",
    "ptb.discord.com/invite/abc",
    "discord.gift/abc",
    "https://discord.gift/abc",
    "discord.com/gifts/abc",
    "Discord.new/abc",
    "discordapp.com/template/abc",
]


@pytest.mark.parametrize("invitation", INVITATIONS)
@pytest.mark.parametrize(
    "around", ["{}", "Join ({}).", "**{}**", "||{}||, now", "_{}_", "> {}\n- {}", "[a]({})"]
)
def test_no_invitation_unfolds_into_a_card_however_it_is_written(invitation: str, around: str) -> None:
    written = around.replace("{}", invitation)
    shown = with_plain_links(written)
    assert not live(shown)
    assert with_plain_links(shown) == shown
    assert not any(live(page.content) for page in split_pages(f"{'word ' * 9}{written}", 64))


@pytest.mark.parametrize("invitation", INVITATIONS)
def test_the_reader_that_judges_sees_the_invitation(invitation: str) -> None:
    assert invitations(f"Join {invitation} now")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("discord.gg/abc.", "<https://discord.gg/abc>."),
        ("**https://discord.gg/abc**", "**<https://discord.gg/abc>**"),
        ("https://discord.gg/a,https://discord.gg/b", "<https://discord.gg/a>,<https://discord.gg/b>"),
        ("https://discord.com/developers/docs", "<https://discord.com/developers/docs>"),
        # A link without a scheme ends at the bracket, and would take the angle bracket's end from the address.
        ("[a](x<https://discord.gg/a(j)b/>", "[a](x<https://discord.gg/a>(j)b/>"),
        # No invitations.
        ("discord.gg and discord.com/developers", "discord.gg and discord.com/developers"),
        ("https://discord.gg.example/abc", "https://discord.gg.example/abc"),
        ("https://mydiscord.gg/abc, mydiscord.gg/abc", "https://mydiscord.gg/abc, mydiscord.gg/abc"),
        ("https://example.org/discord.gg/abc", "https://example.org/discord.gg/abc"),
        ("https://dsc.gg/abc", "https://dsc.gg/abc"),
        ("`discord.gg/abc`", "`discord.gg/abc`"),
        ("```\nhttps://discord.gg/abc\n```", "```\nhttps://discord.gg/abc\n```"),
    ],
)
def test_an_invitation_stays_a_line_and_other_links_stay_as_they_are(written: str, shown: str) -> None:
    assert with_plain_links(written) == shown
    assert not live(shown)


@pytest.mark.parametrize(
    "mention", ["<@1>", "<@!22>", "<@&333>", "a<@1>b", "https://a.example<@1>", "\\\\<@1>"]
)
def test_nobody_is_named_by_number(mention: str) -> None:
    assert mentions(mention)
    assert not mentions(with_plain_links(mention))
    assert mention.count("@") == with_plain_links(mention).count("@")


def test_a_mention_in_code_is_left_alone() -> None:
    assert with_plain_links("<@1> is `<@1>`") == "<\\@1> is `<@1>`"


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                LINK,
                "](https://e.x)",
                "[",
                "]",
                "(j)",
                "](",
                "<",
                ">",
                "https://",
                ":",
                "¯",
                "\n",
                " ",
                "a",
                "\\",
            ),
            *("`", "``", "```", "*", "**", "_", "__", "~~", "||"),
            *("# ", "> ", "- ", ">>> ", "-# "),
            *("https://discord.gg/a", "discord.gg/a", "HTTPS://Discord.com", "/invite/a", "http://x@"),
            *("<@1>", "<@&2>", "@", "discord.gg", ".", "/"),
        ]
    ),
    max_size=24,
).map("".join)


@pytest.mark.timeout(600)  # many cases, on machines that are shared
@settings(max_examples=CASES, deadline=None)
@given(PIECES)
def test_whatever_marks_are_around_it_no_link_is_masked(text: str) -> None:
    shown = with_plain_links(text)
    assert not live(shown)
    assert units(shown) <= units(text) + sum(growth(found[0]) for found in GROWS.finditer(text))


@pytest.mark.timeout(600)
@settings(max_examples=CASES // 4, deadline=None)
@given(st.text(max_size=300) | PIECES)
def test_whatever_is_written_no_masked_link_is_on_a_page(text: str) -> None:
    text = f"{text}\n\n[x](https://evil.example) <@1> discord.gg/abc {text}"
    pages = split_pages(text, 200)
    assert not any(live(page.content) for page in pages)
    assert "".join(page.source for page in pages) == text
    assert all(units(page.content) <= 200 for page in pages)


def test_a_page_with_many_links_still_fits() -> None:
    text = "[a](https://b.c) " * 500
    assert all(len(page.content) <= 2000 for page in split_pages(text))
