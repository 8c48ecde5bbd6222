"""The stages, in their order: what is needed most comes first, for the time may run out."""

from __future__ import annotations

from benchmarks.gpu.stage import Stage

_HERE = "benchmarks.gpu"

STAGES = (
    Stage("machine", "versions, the device, NVML, copies", f"{_HERE}.machine:look", 60, 60),
    Stage(
        "checkpoints",
        "random checkpoints with true dimensions, made on the device",
        f"{_HERE}.checkpoints:make_all",
        110,
        40,
    ),
    Stage(
        "tests",
        "the tests of attention, families, batch, sampler, experts, quantized, graphs and pool, on this device",
        f"{_HERE}.own_tests:run",
        110,
        100,
        beside="checkpoints",
    ),
    Stage(
        "dead-gpu",
        "a device-side assert in the running bot: what people read, and whether it ends",
        f"{_HERE}.trouble:dead_gpu",
        100,
        100,
        needs_cuda=True,
        beside="checkpoints",
    ),
    Stage(
        "load",
        "Llama 3.1 8B in NF4: first load, reload, memory against the estimate, after unloading",
        f"{_HERE}.loading:load",
        75,
        40,
    ),
    Stage(
        "engine",
        "the engine for 1, 8, 16 and 32 people, with questions of equal and of mixed lengths",
        f"{_HERE}.speed:engine",
        70,
        40,
    ),
    Stage("generate", "bare `generate` for 1 and 16, to compare", f"{_HERE}.speed:generate", 60, 30),
    Stage(
        "cudnn",
        "cuDNN's attention on and off, by turns",
        f"{_HERE}.speed:cudnn",
        45,
        30,
        needs_cuda=True,
    ),
    Stage(
        "steps",
        "a profile of decode steps: launches, how busy the GPU is, synchronizations, step times",
        f"{_HERE}.steps:profiled",
        40,
        30,
    ),
    Stage(
        "graphs",
        "CUDA graphs off and on, by turns: speed, memory, and the same words",
        f"{_HERE}.repeated:graphs",
        60,
        30,
        needs_cuda=True,
    ),
    Stage(
        "long-prompt",
        "a prompt of 6,000 tokens, alone and beside 15, and in pieces of other sizes",
        f"{_HERE}.speed:long_prompt",
        60,
        30,
    ),
    Stage("whole-bot", "the whole bot as `bench` asks it, for 1 and 16", f"{_HERE}.speed:whole_bot", 45, 30),
    Stage("gemma", "Gemma 2 in a batch against `generate` in float32", f"{_HERE}.sameness:gemma", 50, 40),
    Stage(
        "exhausted",
        "memory taken by ballast: do answers go on, is the sentence right, does it work once freed",
        f"{_HERE}.trouble:exhausted",
        45,
        30,
        needs_cuda=True,
    ),
    Stage(
        "seeds",
        "the same seeds for 16, alone and while another model is loaded",
        f"{_HERE}.sameness:seeds",
        45,
        30,
    ),
    Stage(
        "switching",
        "Llama, Gemma, Mixtral, Llama, twice: times, and memory after each",
        f"{_HERE}.switching:switching",
        75,
        40,
    ),
    Stage(
        "families",
        "Phi-3 mini, Qwen 2 7B and Mixtral: loads, answers, memory against the estimate",
        f"{_HERE}.loading:families",
        60,
        40,
    ),
)


def prepare() -> bool:
    """Do the slow imports, so that no stage is measured with them; whether PyTorch can use a GPU here."""
    import torch

    if is_there := bool(torch.cuda.is_available()):
        torch.cuda.init()
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: F401  what is behind them is lazy

    from benchmarks.gpu import lab  # noqa: F401  and with it the bot

    return is_there
