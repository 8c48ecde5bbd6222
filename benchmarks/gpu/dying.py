"""`python -m bot run` towards a stand-in for Discord, with a GPU that fails for good once a file is there.

A kernel is given an index that is out of range: the assertion in it leaves the CUDA context unusable, as a hardware
error does. Without a GPU, PyTorch's error is raised by hand, again and again: that is a rehearsal.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any


def _arm(flag: Path) -> None:
    """Have forwards of Llama fail once the file is there."""
    import torch
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if flag.exists():
            if self.device.type != "cuda":
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            torch.zeros(4, device=self.device)[torch.tensor([1000], device=self.device)]
        return output

    LlamaForCausalLM.forward = dying  # type: ignore[method-assign]


def main() -> None:
    """Run the bot."""
    import discord.http
    import yarl
    from discord.gateway import DiscordWebSocket

    address = os.environ["DISCORD_STANDIN"]
    discord.http.Route.BASE = f"http://{address}"
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"ws://{address}/gateway")
    _arm(Path(os.environ["DYING_FLAG"]))
    sys.argv = ["punchline", "run"]
    runpy.run_module("bot", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
