"""From a catalogue entry to a model that is ready to answer: files, tokenizer, template, weights.

One path for every model and for GPU and CPU: `AutoModelForCausalLM` with bitsandbytes NF4, double
quantization and bfloat16 compute; safetensors only; code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError
from safetensors import SafetensorError

from bot.chat.messages import ChatMessage, Role
from bot.errors import ModelUnavailable
from bot.inference import chat_template, embedded
from bot.inference.catalog import EMBEDDED, ModelSpec
from bot.inference.device import is_out_of_memory, trim_heap
from bot.inference.embedded import Progress
from bot.inference.memory import Footprint
from bot.inference.products import use_direct_products
from bot.inference.quantized import QuantizedCopies, keepable
from bot.inference.thoughts import UNTOLD, AnswerText, Marks, ThoughtMarks
from bot.inference.tokenizers import fingerprint, read_tokenizer
from bot.inference.weights import read_weights, weights_reported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in memory, with what is needed to talk to it.

    `spec` is the entry that it was loaded by; requests may come by others with the same key. `eos_token_ids` are all
    the ids that end an answer; some models have several. `context_tokens` is the smaller of what the catalogue allows
    and what the model was built for. `thoughts` is how it marks what it thinks, `vocabulary` the fingerprint of what
    its ids mean.
    """

    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    traits: chat_template.TemplateTraits | None
    eos_token_ids: tuple[int, ...]
    context_tokens: int
    thoughts: ThoughtMarks = UNTOLD
    vocabulary: str = ""

    def encode(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        """The messages as the ids that the model continues, in the form its template takes.

        `entry` is the request's, which may switch thinking otherwise than the one that the model was loaded by.

        Where the last one is the assistant's, the model goes on with it: its words stand behind the template's
        beginning of an answer, just as when the model wrote them.
        """
        if _goes_on(messages):
            return [*self.encode(messages[:-1], entry), *self.said_ids(messages, entry)]
        if self.traits is None:
            return list(self.tokenizer(chat_template.plain(messages))["input_ids"])
        text = self._rendered(messages, self.traits, entry)
        # The template writes the special tokens itself: adding them again would double the first one.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def said_ids(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        """The ids of the words that an answer to these messages goes on from; none where it begins anew.

        They are the ids that the words were made of, if this model's vocabulary is the one that made them.
        """
        if not _goes_on(messages):
            return []
        last = messages[-1]
        if last.tokens is not None and last.tokens.vocabulary == self.vocabulary:
            model: Any = self.model
            if max(last.tokens.ids, default=0) < model.get_input_embeddings().weight.shape[0]:
                return list(last.tokens.ids)
        marks = self._marks_for(entry)
        said: list[int] = []
        for text, _ in marks.as_written(last.content, self._opened_thought(messages[:-1], entry)):
            said += self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return said

    def answer_text(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> AnswerText:
        """What makes text of an answer to these messages, behind the words that it goes on from."""
        asked = messages[:-1] if _goes_on(messages) else messages
        opened = self._opened_thought(asked, entry)
        return AnswerText(self.decode, self._marks_for(entry), opened, self.said_ids(messages, entry))

    def _marks_for(self, entry: ModelSpec | None) -> ThoughtMarks:
        return self.thoughts.chosen(self.tokenizer, (entry or self.spec).thoughts)

    def _opened_thought(self, messages: Sequence[ChatMessage], entry: ModelSpec | None) -> Marks | None:
        """The thought that the prompt for these messages leaves open."""
        if (traits := self.traits) is None:
            return None

        def render(more: str) -> str | None:
            *before, last = messages
            try:
                return self._rendered([*before, replace(last, content=last.content + more)], traits, entry)
            except TemplateError:
                return None

        return self._marks_for(entry).opened_by(render)

    def _rendered(
        self,
        messages: Sequence[ChatMessage],
        traits: chat_template.TemplateTraits,
        entry: ModelSpec | None,
    ) -> str:
        """The prompt as text."""
        whole = [
            replace(one, content=self.thoughts.kept_whole(one.content)) if one.role is Role.ASSISTANT else one
            for one in messages
        ]
        thinking = (entry or self.spec).enable_thinking
        switches: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        text = self.tokenizer.apply_chat_template(
            chat_template.as_dicts(chat_template.adapt(whole, traits)),
            tokenize=False,
            add_generation_prompt=True,
            **switches,
        )
        return str(text)

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


def _goes_on(messages: Sequence[ChatMessage]) -> bool:
    """Whether an answer to these goes on from words of the model's own."""
    return len(messages) > 1 and messages[-1].role is Role.ASSISTANT


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
                    f"{spec.alias} is not in {folder}: there is no config.json. Check 'source' in the catalogue.",
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
        step = f"loading {spec.alias}"
        report(step, None)
        try:
            tokenizer = read_tokenizer(folder)
            with weights_reported(partial(report, step)):
                model = self._quantized(spec, folder)
            trim_heap()  # so that the peak is that of one step and not of both
            if not self._plain:
                use_direct_products(model)
                trim_heap()
            return _ready(spec, tokenizer, model)
        except _LOAD_FAULTS as error:
            log.exception("cannot load %s from %s", spec.alias, folder)
            traceback.clear_frames(error.__traceback__)  # they hold what was loaded so far
            raise ModelUnavailable(_why_not(spec, error)) from error

    def _quantized(self, spec: ModelSpec, folder: Path) -> PreTrainedModel:
        """The weights, from the copy that is quantized already or else from the checkpoint."""
        quantize = spec.quantization != "none"
        if self._copies is None or not quantize:
            return read_weights(folder, quantize=quantize)
        if copy := self._copies.find(spec, folder):
            try:
                return read_weights(copy, quantize=False, saved_here=True)
            except (*_LOAD_FAULTS, TypeError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)
                log.warning("the quantized copy of %s is damaged, and made anew: %s", spec.alias, error)
                self._copies.drop(copy)
        model = read_weights(folder, quantize=True)
        if keepable(model):
            self._copies.keep(model, spec, folder)
        return model


# A missing file, an unknown architecture, a broken header or template, or not the memory: transformers' own errors
# are of these kinds, and any other is a bug.
_LOAD_FAULTS = (OSError, ValueError, KeyError, RuntimeError, MemoryError, SafetensorError, TemplateError)


def _why_not(spec: ModelSpec, error: BaseException) -> str:
    if is_out_of_memory(error):
        return (
            f"{spec.alias} does not fit into the memory that is free now. Please try a smaller model; the operator "
            "can lower its context_tokens, or GPU_MEMORY_BUDGET if other programs use the device."
        )
    if isinstance(error, SafetensorError):
        return (
            f"{spec.alias} cannot be loaded: its files are damaged. The operator can remove the folder that the log "
            f"names, and fetch them anew with `python -m bot pull {spec.alias}`."
        )
    return (
        f"{spec.alias} cannot be loaded: its files are missing, broken or of a kind that is not supported. The "
        "operator finds the reason in the log."
    )


def _ready(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> LoadedModel:
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
        thoughts=ThoughtMarks.find(tokenizer),
        vocabulary=fingerprint(tokenizer),
    )


def _eos_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> tuple[int, ...]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int)}))
