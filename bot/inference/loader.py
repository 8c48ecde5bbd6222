"""From a catalogue entry to a model that is ready to answer: files, tokenizer, template, weights.

One path for every model and for GPU and CPU: `AutoModelForCausalLM` with bitsandbytes NF4, double
quantization and bfloat16 compute; safetensors only; code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.chat.messages import ChatMessage, Role
from bot.errors import BotError, ModelUnavailable
from bot.inference import chat_template, embedded
from bot.inference.catalog import EMBEDDED, ModelSpec
from bot.inference.device import is_out_of_memory, trim_heap
from bot.inference.embedded import Progress
from bot.inference.generation_config import read_sampling
from bot.inference.load_errors import Step, not_fetched, refuse_non_writers, why_not, without_config
from bot.inference.memory import Footprint
from bot.inference.products import use_direct_products
from bot.inference.quantized import QuantizedCopies, keepable
from bot.inference.tokenizers import read_tokenizer
from bot.inference.weights import read_weights, weights_reported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in memory, with what is needed to talk to it.

    `spec` is the entry that it was loaded by; requests may come by others with the same key. `eos_token_ids` are all
    the ids that end an answer; some models have several. `context_tokens` is the smaller of what the catalogue allows
    and what the model was built for. `sampling` is what the checkpoint recommends, for `SamplingParams.with_defaults`.
    """

    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    traits: chat_template.TemplateTraits | None
    eos_token_ids: tuple[int, ...]
    context_tokens: int
    sampling: Mapping[str, float] = field(default_factory=dict)

    def encode(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        """The messages as the ids that the model continues, in the form its template takes.

        `entry` is the request's, which may switch thinking otherwise than the one that the model was loaded by.

        Where the last one is the assistant's, the model goes on with it: its words stand behind the template's
        beginning of an answer, just as when the model wrote them.
        """
        if len(messages) > 1 and messages[-1].role is Role.ASSISTANT:
            said = self.tokenizer(messages[-1].content, add_special_tokens=False)["input_ids"]
            return [*self.encode(messages[:-1], entry), *said]
        if self.traits is None:
            return _begun(self.tokenizer, chat_template.plain(messages))
        adapted = chat_template.adapt(messages, self.traits)
        thinking = (entry or self.spec).enable_thinking
        switches: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        text = self.tokenizer.apply_chat_template(
            chat_template.as_dicts(adapted), tokenize=False, add_generation_prompt=True, **switches
        )
        # The template writes the special tokens itself: adding them again would double the first one.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count(self, text: str) -> int:
        """How many tokens a text is, without what a template adds."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Ids to text, special tokens left out, spaces as the model wrote them."""
        text = self.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)  # noqa: S101  a list of ids gives one text
        return text

    def measured(self, estimate: Footprint) -> Footprint:
        """The estimate, with the weights as they are."""
        return replace(estimate, weights_bytes=int(self.model.get_memory_footprint()))


class ModelLoader:
    """Finds, fetches and loads models.

    Args:
        cache_dir: where the embedded model is kept.
        hf_token: for gated repositories; None asks as nobody.
        keep_quantized: whether the cache holds quantized weights too, see `quantized.py`.
        plain: leave models as transformers and bitsandbytes make them, to compare; see `products.py`.
    """

    def __init__(
        self,
        cache_dir: Path,
        hf_token: str | None = None,
        *,
        keep_quantized: bool = True,
        plain: bool = False,
    ) -> None:
        self._cache_dir = cache_dir
        self._hf_token = hf_token
        self._copies = QuantizedCopies(cache_dir / "quantized") if keep_quantized and not plain else None
        self._plain = plain

    def prepare(self) -> None:
        """Import torch and transformers, which takes seconds, and calm them down."""
        import transformers
        from huggingface_hub.utils import logging as hub_logging

        hub_logging.set_verbosity_error()  # it would tell of every retry, twice
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # bitsandbytes tells at every start that optional kernels for the CPU are not installed.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import bitsandbytes  # noqa: F401  slow too
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  what is behind them is lazy

        # Unloading collects garbage, which stops every thread: what was imported need not be looked at again.
        gc.freeze()

    def present(self, spec: ModelSpec) -> Path | None:
        """The folder with the model's files if all of them are on this disk; asks no network.

        Raises:
            ModelUnavailable: the catalogue names a folder that holds no model.
        """
        if spec.source == EMBEDDED:
            folder = embedded.checkpoint_path(self._cache_dir)
            return folder if folder.exists() else None
        if spec.source is not None:
            folder = Path(spec.source).expanduser()
            if not (folder / "config.json").is_file():
                raise ModelUnavailable(
                    f"{spec.alias} is not in {folder}: {without_config(folder)}. Check 'source' in the catalogue.",
                    for_people=f"{spec.alias} is not where the catalogue says. Please tell the bot's operator.",
                )
            return folder
        from bot.inference import hub

        return hub.fetched(spec)

    def fetch(self, spec: ModelSpec, report: Progress) -> Path:
        """The folder with the model's files, fetched first if they are not all here.

        Raises:
            ModelUnavailable: they cannot be had.
        """
        told = _Told(report)
        try:
            return self._fetched(spec, told)
        except Exception as error:  # of the file system, the Hub's client or the reader of the embedded model
            if error is told.raised or isinstance(error, BotError):
                raise
            log.exception("cannot fetch %s", spec.alias)
            raise not_fetched(spec, error) from error

    def _fetched(self, spec: ModelSpec, report: Progress) -> Path:
        if folder := self.present(spec):
            return folder
        if spec.source == EMBEDDED:
            return embedded.ensure_checkpoint(self._cache_dir, report)
        from bot.inference import hub

        return hub.fetch(spec, self._hf_token, report)

    def load(self, spec: ModelSpec, report: Progress) -> LoadedModel:
        """Load a model; one at a time in a process, for it listens to transformers' own progress.

        Raises:
            ModelUnavailable: files are missing or broken, or there is not the memory for it.
        """
        folder = self.fetch(spec, report)
        told, doing = _Told(report), f"loading {spec.alias}"
        told(doing, None)
        step = Step.TOKENIZER
        try:
            refuse_non_writers(spec, folder)
            tokenizer = read_tokenizer(folder)
            step = Step.WEIGHTS
            with weights_reported(partial(told, doing)):
                model = self._quantized(spec, folder, told)
            step = Step.TEMPLATE
            trim_heap()  # so that the peak is that of one step and not of both
            if not self._plain:
                use_direct_products(model)
                trim_heap()
            return _ready(spec, tokenizer, model, read_sampling(folder, spec.alias))
        except Exception as error:  # transformers raises anything
            if error is told.raised or isinstance(error, BotError):
                raise
            log.exception("cannot load %s from %s", spec.alias, folder)
            traceback.clear_frames(error.__traceback__)  # they hold what was loaded so far
            raise why_not(spec, folder, error, step) from error

    def _quantized(self, spec: ModelSpec, folder: Path, told: _Told) -> PreTrainedModel:
        """The weights, from the copy that is quantized already or else from the checkpoint."""
        quantize = spec.quantization != "none"
        if self._copies is None or not quantize:
            return read_weights(folder, quantize=quantize)
        if copy := self._copies.find(spec, folder):
            try:
                return read_weights(copy, quantize=False, saved_here=True)
            except Exception as error:
                if error is told.raised or is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)
                log.warning("the quantized copy of %s is damaged, and made anew: %s", spec.alias, error)
                self._copies.drop(copy)
        model = read_weights(folder, quantize=True)
        if keepable(model):
            self._copies.keep(model, spec, folder)
        return model


class _Told:
    """Tells how far a fetch or a load is.

    Attributes:
        raised: what the listener raised to end it, which is no fault of the model's.
    """

    def __init__(self, report: Progress) -> None:
        self._report = report
        self.raised: BaseException | None = None

    def __call__(self, step: str, fraction: float | None) -> None:
        try:
            self._report(step, fraction)
        except BaseException as error:
            self.raised = error
            raise


def _begun(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that is to go on: with what the tokenizer puts in front, and nothing behind it.

    Tokenizers of some base models put an end behind every text (`add_eos_token`, a post-processor as T5's), after which
    there is nothing to say.
    """
    plain, around = (
        list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True)
    )
    places = range(len(around) - len(plain) + 1)
    before = next((place for place in places if around[place : place + len(plain)] == plain), 0)
    return [*around[:before], *tokenizer(text, add_special_tokens=False)["input_ids"]]


def _ready(
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    sampling: Mapping[str, float],
) -> LoadedModel:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    traits = None
    if tokenizer.chat_template is not None:
        traits = chat_template.probe(
            lambda messages: str(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            )
        )
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or spec.context_tokens
    return LoadedModel(
        spec=spec,
        tokenizer=tokenizer,
        model=model,
        traits=traits,
        eos_token_ids=_eos_token_ids(tokenizer, model),
        context_tokens=min(spec.context_tokens, limit),
        sampling=sampling,
    )


def _eos_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> tuple[int, ...]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int)}))
