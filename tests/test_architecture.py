"""Who may import whom: docs/architecture.md, held by reading the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("bot", "cogs") for path in (ROOT / room).rglob("*.py"))

HEAVY = ("torch", "transformers", "bitsandbytes")
MAY_USE_HEAVY = (
    "bot/bench/bare.py",
    "bot/bench/run.py",
    "bot/inference/anatomy.py",
    "bot/inference/attention.py",
    "bot/inference/config_file.py",
    "bot/inference/batch.py",
    "bot/inference/sampler.py",
    "bot/inference/device.py",
    "bot/inference/device_failure.py",
    "bot/inference/drawing.py",
    "bot/inference/own_stream.py",
    "bot/inference/sizes.py",
    "bot/inference/experts.py",
    "bot/inference/loader.py",
    "bot/inference/load_errors.py",
    "bot/inference/layout.py",
    "bot/inference/fixed_step.py",
    "bot/inference/graphs.py",
    "bot/inference/manager.py",
    "bot/inference/rope.py",
    "bot/inference/products.py",
    "bot/inference/prompting.py",
    "bot/inference/reading_order.py",
    "bot/inference/run.py",
    "bot/inference/tokenizers.py",
    "bot/inference/weights.py",
    "bot/inference/parts.py",
    "bot/inference/embedded.py",
    "bot/inference/accelerator.py",
)


@dataclass(frozen=True)
class Import:
    """One module somebody imports: where, when (on import of the file or later), and for whom."""

    module: str
    line: int
    at_import: bool
    for_types_only: bool


def imports_of(source: str, package: str = "") -> list[Import]:
    """All imports of a file, those inside functions too; `from a import b` counts as `a.b`."""

    def visit(node: ast.AST, at_import: bool, for_types_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_import, for_types_only)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            )
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield Import(f"{module}.{alias.name}", node.lineno, at_import, for_types_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from visit(statement, at_import, True)
            for otherwise in node.orelse:
                yield from visit(otherwise, at_import, for_types_only)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_import and not later, for_types_only)

    return list(visit(ast.parse(source), True, False))


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_in(room: str) -> list[tuple[str, Import]]:
    """What the files of a room import, with `file:line`."""
    found = []
    for path in FILES:
        if name_of(path).startswith(f"{room}/"):
            package = ".".join(path.relative_to(ROOT).parent.parts)
            for one in imports_of(path.read_text(encoding="utf-8"), package):
                found.append((f"{name_of(path)}:{one.line}", one))
    assert found, f"nothing is imported in {room}"
    return found


def ours(room: str, *allowed: str) -> list[str]:
    """The imports of a room that are from the project and not allowed."""
    return [
        f"{where} imports {one.module}"
        for where, one in imports_in(room)
        if within(one.module, "bot", "cogs") and not within(one.module, *allowed)
    ]


def test_what_is_said_knows_only_the_errors() -> None:
    assert ours("bot/chat", "bot.chat", "bot.errors") == []


def test_how_it_is_answered_knows_only_what_is_said_and_never_discord() -> None:
    assert ours("bot/inference", "bot.inference", "bot.chat", "bot.errors", "bot.trace") == []
    discord = [where for where, one in imports_in("bot/inference") if within(one.module, "discord")]
    assert discord == []


def test_how_it_is_shown_knows_the_answers_and_no_commands_or_settings() -> None:
    assert (
        ours("bot/replies", "bot.replies", "bot.inference", "bot.chooser", "bot.deadline", "bot.errors") == []
    )


def test_who_may_ask_is_decided_without_commands_or_replies_and_discord_is_looked_at_in_one_place() -> None:
    assert (
        ours(
            "bot/access",
            "bot.access",
            "bot.chat",
            "bot.deadline",
            "bot.inference",
            "bot.storage",
            "bot.errors",
        )
        == []
    )
    discord = {
        where.split(":")[0] for where, one in imports_in("bot/access") if within(one.module, "discord")
    }
    assert discord == {"bot/access/asker.py"}


def test_what_is_kept_knows_only_the_errors_and_sql_stays_there() -> None:
    assert ours("bot/storage", "bot.storage", "bot.errors") == []
    everywhere = [*imports_in("bot"), *imports_in("cogs")]
    strangers = {
        where.split(":")[0] for where, one in everywhere if within(one.module, "sqlalchemy", "alembic")
    }
    assert all(place.startswith("bot/storage/") for place in strangers)


def test_numbers_are_counted_in_one_room_and_everybody_else_knows_only_an_observer() -> None:
    everywhere = [*imports_in("bot"), *imports_in("cogs")]
    counting = {where.split(":")[0] for where, one in everywhere if within(one.module, "prometheus_client")}
    assert counting
    assert all(place.startswith("bot/ops/") for place in counting)


def test_cogs_know_neither_each_other_nor_how_the_bot_is_put_together() -> None:
    forbidden = [
        f"{where} imports {one.module}"
        for where, one in imports_in("cogs")
        if within(one.module, "cogs", "bot.app", "bot.settings")
    ]
    assert forbidden == []


def test_torch_and_transformers_are_imported_in_few_places_and_only_when_they_are_used() -> None:
    everywhere = [*imports_in("bot"), *imports_in("cogs")]
    heavy = [(where, one) for where, one in everywhere if within(one.module, *HEAVY)]
    assert heavy, "nobody imports torch: the rule looks in the wrong place"
    strangers = [where for where, _ in heavy if where.split(":")[0] not in MAY_USE_HEAVY]
    early = [where for where, one in heavy if one.at_import and not one.for_types_only]
    assert (strangers, early) == ([], [])


def test_the_reader_of_imports_misses_none() -> None:
    source = """
import torch.nn
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from torch import Tensor
else:
    import cogs
class A:
    import discord
    async def f(self):
        if True:
            from bot.settings import load_settings
try:
    from . import catalog
    from ..chat import prompt
except ImportError:
    pass
"""
    assert imports_of(source, "bot.inference") == [
        Import("torch.nn", 2, True, False),
        Import("typing.TYPE_CHECKING", 3, True, False),
        Import("torch.Tensor", 5, True, True),
        Import("cogs", 7, True, False),
        Import("discord", 9, True, False),
        Import("bot.settings.load_settings", 12, False, False),
        Import("bot.inference.catalog", 14, True, False),
        Import("bot.chat.prompt", 15, True, False),
    ]
