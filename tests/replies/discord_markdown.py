"""What Discord makes of a message, read the slow and simple way: rule after rule, at each place anew.

Written from docs/discord-markdown.md and apart from the bot's own reader, which it judges. No care is taken of time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import unquote


@dataclass(frozen=True)
class Node:
    """A part of a message: its kind, its own words if it has no parts, where it leads if it is a link."""

    kind: str
    words: str = ""
    target: str = ""
    parts: tuple[Node, ...] = ()

    def all(self) -> Iterator[Node]:
        yield self
        for part in self.parts:
            yield from part.all()

    @property
    def seen(self) -> str:
        return self.words + "".join(part.seen for part in self.parts)


@dataclass(frozen=True)
class Where:
    line_begins: bool = True
    in_quote: bool = False
    in_list: bool = False


Found = tuple[int, list[Node]]


def parse(text: str, where: Where = Where()) -> list[Node]:
    nodes: list[Node] = []
    while text:
        length, found = next(taken for rule in RULES if (taken := rule(text, where)) is not None)
        nodes += found
        where = replace(where, line_begins=re.search(r"\n *\Z", text[:length]) is not None)
        text = text[length:]
    return nodes


def inside(text: str, where: Where) -> tuple[Node, ...]:
    return tuple(parse(text, replace(where, line_begins=False)))


def line(pattern: str, kind: str) -> Callable[[str, Where], Found | None]:
    def rule(text: str, where: Where) -> Found | None:
        found = re.match(pattern + r" +([^\n]+?)(?:\n|\Z)", text) if where.line_begins else None
        return found and (found.end(), [Node(kind, parts=inside(found[1], where))])

    return rule


def code_block(text: str, where: Where) -> Found | None:
    found = re.match(r"```(?:([\w+\-.#]+?)\n)?\n*([^\n].*?)\n*```", text, re.S | re.A)
    return found and (found.end(), [Node("block", found[2], found[1] or "")])


def quote(text: str, where: Where) -> Found | None:
    if not where.line_begins or where.in_quote:
        return None
    if found := re.match(r" *>>> +(.*)", text, re.S):
        return found.end(), [Node("quote", parts=tuple(parse(found[1], replace(where, in_quote=True))))]
    if found := re.match(r" *>(?!>>) +[^\n]*(?:\n *>(?!>>) +[^\n]*)*\n?", text):
        words = re.sub(r"^ *> ?", "", found[0], flags=re.M)
        return found.end(), [Node("quote", parts=tuple(parse(words, replace(where, in_quote=True))))]
    return None


def listed(text: str, where: Where) -> Found | None:
    bullet = re.match(r"( *)(?:[*-]|\d+\.) ", text) if where.line_begins and not where.in_list else None
    if bullet is None:
        return None
    item = rf"{bullet[1]}(?:[*-]|\d+\.) "
    end = re.search(rf"\n+(?! )(?!{item})|\s*\Z", text[bullet.end() :])
    assert end is not None
    whole = text[: bullet.end() + end.end()]
    if not whole[bullet.end() :].strip():
        return None
    parts: list[Node] = []
    for one in re.split(rf"(?:^|(?<=\n)){item} *", whole)[1:]:
        parts += parse(re.sub(r"^ {1,4}", "", one, flags=re.M), replace(where, in_list=True))
    return len(whole), [Node("list", parts=tuple(parts))]


def plain(pattern: str, kind: str = "text") -> Callable[[str, Where], Found | None]:
    def rule(text: str, where: Where) -> Found | None:
        found = re.match(pattern, text, re.S)
        return found and (found.end(), [Node(kind, found[0])])

    return rule


def link(text: str, where: Where) -> Found | None:
    found = re.match(
        r"\[((?:\[[^\]]*\]|[^\[\]]|\](?=[^\[]*\]))*)\]"
        r"\(\s*<?((?:\([^)]*\)|[^\s\\]|\\.)*?)>?(?:\s+['\"](.*?)['\"])?\s*\)",
        text,
        re.S,
    )
    if found is None:
        return None
    target = re.sub(r"\\([^0-9A-Za-z\s])", r"\1", found[2])
    if not re.match(r"[a-z][a-z0-9+.-]*:", target, re.I):
        return found.end(), [Node("no link", found[0])]
    return found.end(), [Node("link", "", target, inside(found[1], where))]


def emphasis(text: str, where: Where) -> Found | None:
    """Of those that begin here, the longest."""
    patterns = {
        "em": r"_((?:__|\\.|[^\\_])+?)_(?![0-9A-Za-z_])"
        r"|\*(?=\S)((?:\*\*|\\.|\s+(?:\\.|[^\s*\\]|\*\*)|[^\s*\\])+?)\*(?!\*)",
        "strong": r"\*\*((?:\\.|[^\\])+?)\*\*(?!\*)",
        "underline": r"__((?:\\.|[^\\])+?)__(?!_)",
        "strike": r"~~(.+?)~~(?!_)",
    }
    found = {kind: match for kind, pattern in patterns.items() if (match := re.match(pattern, text, re.S))}
    if not found:
        return None
    kind = max(found, key=lambda one: found[one].end())
    words = next(group for group in found[kind].groups() if group is not None)
    return found[kind].end(), [Node(kind, parts=inside(words, where))]


def inline_code(text: str, where: Where) -> Found | None:
    found = re.match(r"(`+)(.*?[^`])\1(?!`)", text, re.S)
    return found and (found.end(), [Node("code", found[2])])


def spoiler(text: str, where: Where) -> Found | None:
    found = re.match(r"\|\|(.+?)\|\|", text, re.S)
    return found and (found.end(), [Node("spoiler", parts=inside(found[1], where))])


RULES = (
    line(r" *#{1,3}", "heading"),
    line(r" *-#", "small"),
    code_block,
    quote,
    listed,
    plain(r"\\[^0-9A-Za-z\s]", "escape"),
    plain(r"<[^: >]+:/[^ >]+>", "address"),
    plain(r"<[^\s<>@]+@[^\s<>@]+\.[^\s<>@]+>", "address"),
    plain(r"(?:https?|steam)://[^\s<]+[^<.,:;\"'\]\s]", "address"),
    link,
    emphasis,
    inline_code,
    plain(r"¯\\_\(ツ\)_/¯"),
    spoiler,
    plain(r"\n"),
    plain(r".(?:[0-9A-Za-z\s\u00c0-\uffff-](?<!\n)(?!\w+:\S))*"),
)


def masked_links(message: str) -> list[Node]:
    """The links that show other words than where they lead."""
    nodes = (node for top in parse(message) for node in top.all())
    return [node for node in nodes if node.kind == "link"]


@dataclass
class Backticks:
    """What of a message is code as far as backticks and backslashes decide it."""

    blocks: list[tuple[str, str]] = field(default_factory=list)  # language and words
    left_open: bool = False


def backticks(message: str) -> Backticks:
    result = Backticks()
    where = Where()
    while message:
        if (found := code_block(message, where)) is not None:
            result.blocks.append((found[1][0].target, found[1][0].words))
        elif (
            message.startswith("```") and message[3:].strip("\n") and not re.match(r"```\n+```(?!`)", message)
        ):
            result.left_open = True
        if found is None:
            escape = re.match(r"\\[^0-9A-Za-z\s]", message)
            found = (escape.end(), []) if escape else inline_code(message, where)
        message = message[1 if found is None else found[0] :]
    return result


GAP = "\0"  # stands for what is no letter of the message, so that nothing reads across it


def raw(nodes: tuple[Node, ...]) -> Iterator[tuple[str, str]]:
    """What is left of a message without its code: ("text" or "address", words), one after the other."""
    for node in nodes:
        if node.kind in ("block", "code", "escape"):
            yield "text", GAP
        elif node.kind == "address":
            yield "address", node.words
        elif node.kind == "link":
            yield from (("text", GAP), ("address", node.target), ("text", GAP))
        elif node.kind == "no link":
            yield "text", re.sub(r"<[^: >]+:/[^ >]+>", GAP, node.words)
        elif node.parts:
            yield "text", GAP
            yield from raw(node.parts)
            yield "text", GAP
        else:
            yield "text", node.words


def host_of(address: str) -> str:
    """Where a browser goes for an address: its host, as the browser would write it."""
    authority = re.split(r"[/\\?#]", re.sub(r"(?i)^https?:[/\\]+", "", address), maxsplit=1)[0]
    host = unquote(authority.split("@")[-1])
    for dot in "\u3002\uff0e\uff61":
        host = host.replace(dot, ".")
    host = re.sub(r":\d*$", "", unicodedata.normalize("NFKC", host).lower().replace("\u00ad", ""))
    return host.rstrip(".")


def invitations(message: str) -> list[str]:
    """What unfolds into a card, or may, since it leads to Discord: but for what is in angle brackets."""
    bare = (
        r"(?i)(?:^|[^\w.\-/])"
        r"((?:(?:www|ptb|canary)\.)?(?:discord\.(?:gg|gift|new)"
        r"|discord(?:app)?\.com[/\\]+(?:invite|gifts|template))[/\\]+\w)"
    )
    # Whether capitals in a scheme make a link is not known: they count as one.
    with_scheme = r"(?i)https?://[^\s<\0]+"
    parts = raw(tuple(parse(message)))
    words = "".join(GAP if kind == "address" and part.startswith("<") else part for kind, part in parts)
    addresses = re.findall(with_scheme, words)
    found = re.findall(bare, re.sub(with_scheme, GAP, words))
    for address in addresses:
        for begin in re.finditer(r"(?i)https?://", address):
            host = host_of(address[begin.start() :])
            if re.search(r"(?:^|\.)discord(?:\.(?:gg|gift|new|com)|app\.com)\Z", host):
                found.append(address)
    return found


def mentions(message: str) -> list[str]:
    """The people and roles that a message shows by name because it has their numbers."""
    words = "".join(part if kind == "text" else GAP for kind, part in raw(tuple(parse(message))))
    return re.findall(r"<@[!&]?\d+>", words)


def live(message: str) -> list[object]:
    """All of a message that deceives, unfolds or names somebody."""
    return [*masked_links(message), *invitations(message), *mentions(message)]
