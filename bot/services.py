"""What the cogs are given."""

from __future__ import annotations

from dataclasses import dataclass

from bot.access.gate import Gate
from bot.access.moderation import Moderation
from bot.access.refusals import Refusals
from bot.answers import Answers
from bot.archive import Archive
from bot.chooser import ModelChooser
from bot.inference.observer import UNOBSERVED, Observer
from bot.inference.queue import InferenceQueue
from bot.operators import Operators
from bot.ops.consultation import Consultation
from bot.ops.operations import Operations
from bot.presses import Presses
from bot.replies.device_card import DeviceCard
from bot.replies.inspection import Inspections
from bot.replies.typing import TypingSigns
from bot.storage.database import Database


@dataclass(frozen=True, slots=True)
class Services:
    """The parts a command is made of.

    Attributes:
        chooser: which model answers where.
        inference: where requests go.
        answers: has a question answered, and shows how.
        archive: the answers that were given.
        presses: takes what people press under an answer.
        gate: lets people in, or says why not.
        moderation: what moderators decide for their server.
        refusals: which refusals are said in a channel.
        operators: who runs the bot.
        typing: shows that answers to messages are on their way.
        inspections: answers with what a model is made of.
        device_card: answers with how the device is.
        database: where all of that is kept; for whoever wants to know whether it answers.
        observer: hears what went wrong with a command.
        consultation: answers operators who ask how the bot is.
        operations: does what operators say.
        default_audience: whom a joke is for when nobody says.
    """

    chooser: ModelChooser
    inference: InferenceQueue
    answers: Answers
    archive: Archive
    presses: Presses
    gate: Gate
    moderation: Moderation
    refusals: Refusals
    operators: Operators
    typing: TypingSigns
    inspections: Inspections
    device_card: DeviceCard
    database: Database
    consultation: Consultation
    operations: Operations
    observer: Observer = UNOBSERVED
    default_audience: str = "a room of data scientists"
