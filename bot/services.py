"""What the cogs are given."""

from __future__ import annotations

from dataclasses import dataclass

from bot.chooser import ModelChooser
from bot.inference.queue import InferenceQueue
from bot.replies.device_card import DeviceCard
from bot.replies.inspection import Inspections
from bot.replies.live import LiveReplies


@dataclass(frozen=True, slots=True)
class Services:
    """The parts a command is made of.

    Attributes:
        chooser: which model answers where.
        inference: where requests go.
        live_reply: makes the growing reply for an interaction.
        inspections: answers with what a model is made of.
        device_card: answers with how the device is.
        default_audience: whom a joke is for when nobody says.
        max_new_tokens: the operator's limit on an answer's length.
    """

    chooser: ModelChooser
    inference: InferenceQueue
    live_reply: LiveReplies
    inspections: Inspections
    device_card: DeviceCard
    default_audience: str = "a room of data scientists"
    max_new_tokens: int = 512
