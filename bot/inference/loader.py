"""From a catalogue entry to a model that is ready to answer: files, tokenizer, template, weights.

One path for every model and for GPU and CPU: `AutoModelForCausalLM` with bitsandbytes NF4, double
quantization and bfloat16 compute (on old GPUs see `precision.py`); safetensors only; code that comes with a
checkpoint is never run.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.chat.messages import ChatMessage, Role
from bot.errors import BotError, ConversationRefused, ModelUnavailable
from bot.inference import attention, chat_template, embedded, gpu_choice
from bot.inference.catalog import EMBEDDED, ModelSpec
from bot.inference.config_file import read_config
from bot.inference.device import gpu, is_out_of_memory, trim_heap
from bot.inference.device_failure import chain_of, is_of_device
from bot.inference.embedded import Progress
from bot.inference.generation_config import read_sampling
from bot.inference.load_errors import Step, not_fetched, refuse_non_writers, why_not, without_config
from bot.inference.memory import Footprint
from bot.inference.products import use_direct_products
from bot.inference.prompting import Clock, Prompt, PromptEncoder, TemplateRefused, renderer, utc_now
from bot.inference.quantized import QuantizedCopies, keepable
from bot.inference.rope import settle_frequencies
from bot.inference.thoughts import UNTOLD, AnswerText, Marks, ThoughtMarks
from bot.inference.tokenizers import TokenizerMissing, fingerprint, read_tokenizer, tokenizer_missing
from bot.inference.weights import held_bytes, read_weights, weights_reported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_NAMED = 5  # tokens that a line of the log names


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in memory, with what is needed to talk to it.

    `spec` is the entry that it was loaded by; requests may come by others with the same key. `eos_token_ids` are all
    the ids that end an answer; some models have several. `context_tokens` is the smaller of what the catalogue allows
    and what the model was built for. `usable_ids` is how many ids it can read and write, None where that is not known.
    `now` is the clock for templates that ask for the date. `thoughts` is how it marks what it thinks, `vocabulary` the
    fingerprint of what its ids mean. `sampling` is what the checkpoint recommends, for `SamplingParams.with_defaults`.
    """

    spec: ModelSpec
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    traits: chat_template.TemplateTraits | None
    eos_token_ids: tuple[int, ...]
    context_tokens: int
    usable_ids: int | None = None
    now: Clock = utc_now
    thoughts: ThoughtMarks = UNTOLD
    vocabulary: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    prompts: PromptEncoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        encoder = PromptEncoder(self.tokenizer, self.traits, self.usable_ids, self.now)
        object.__setattr__(self, "prompts", encoder)

    def encode(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        """The messages as the ids that the model continues, in the form its template takes.

        `entry` is the request's, which may switch thinking otherwise than the one that the model was loaded by.

        Where the last one is the assistant's, the model goes on with it: its words stand behind the template's
        beginning of an answer, just as when the model wrote them.
        """
        if _goes_on(messages):
            return [*self.encode(messages[:-1], entry), *self.said_ids(messages, entry)]
        return self.prompt(messages, entry).ids

    def prompt(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> Prompt:
        """The messages as text and as ids, up to where an answer begins. What people wrote holds no control token.

        Raises:
            ConversationRefused: the template raised.
        """
        with self._refusals_told():
            return self.prompts.prompt(self._kept_whole(messages), **self._switches(entry))

    def said_ids(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        """The ids of the words that an answer to these messages goes on from; none where it begins anew.

        They are the ids that the words were made of, if this model's vocabulary is the one that made them.
        """
        if not _goes_on(messages):
            return []
        last = messages[-1]
        if last.tokens is not None and last.tokens.vocabulary == self.vocabulary:
            most = len(self.tokenizer) if self.usable_ids is None else self.usable_ids
            if max(last.tokens.ids, default=0) < most:
                return list(last.tokens.ids)
        said: list[int] = []
        opened = self._opened_thought(messages[:-1], entry)
        for text, is_mark in self._marks_for(entry).as_written(last.content, opened):
            if is_mark:
                said += self.tokenizer(text, add_special_tokens=False)["input_ids"]
            else:
                said += self.prompts.text_ids(text, begins=not said)
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
        if self.traits is None:
            return None

        def render(more: str) -> str | None:
            *before, last = messages
            try:
                longer = self._kept_whole([*before, replace(last, content=last.content + more)])
                return self.prompts.text(longer, **self._switches(entry))
            except TemplateRefused:
                return None

        return self._marks_for(entry).opened_by(render)

    def _kept_whole(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        return [
            replace(one, content=self.thoughts.kept_whole(one.content)) if one.role is Role.ASSISTANT else one
            for one in messages
        ]

    def _switches(self, entry: ModelSpec | None) -> dict[str, Any]:
        thinking = (entry or self.spec).enable_thinking
        return {} if thinking is None else {"enable_thinking": thinking}

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        try:
            yield
        except TemplateRefused as error:
            log.warning("the chat template of %s refused a conversation: %s", self.spec.alias, error)
            raise ConversationRefused(
                f"The chat template of {self.spec.alias} does not take this conversation. Please begin a new one, or "
                "ask another model."
            ) from None

    def count(self, text: str) -> int:
        """How many tokens a text is, without what a template adds."""
        return len(self.prompts.text_ids(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Ids to text, special tokens and ends left out, spaces as the model wrote them."""
        shown = [
            id_ for id_ in token_ids if id_ not in self.eos_token_ids
        ]  # some ends are not marked special
        text = self.tokenizer.decode(shown, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # noqa: S101  a list of ids gives one text
        return text

    def measured(self, estimate: Footprint) -> Footprint:
        """The estimate, with the weights as they are."""
        return replace(estimate, weights_bytes=held_bytes(self.model))


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
        now: the clock for chat templates that ask for the date.
    """

    def __init__(
        self,
        cache_dir: Path,
        hf_token: str | None = None,
        *,
        keep_quantized: bool = True,
        plain: bool = False,
        now: Clock = utc_now,
    ) -> None:
        self._cache_dir = cache_dir
        self._hf_token = hf_token
        self._copies = QuantizedCopies(cache_dir / "quantized") if keep_quantized and not plain else None
        self._plain = plain
        self._now = now

    def prepare(self) -> None:
        """Choose the GPU, import torch and transformers, which takes seconds, and calm them down.

        Raises:
            SettingsError: GPU_DEVICE names a GPU that cannot be had.
        """
        chosen = gpu()  # before bitsandbytes and transformers are imported, which ask CUDA
        if chosen is None and gpu_choice.choice().chosen is not None:
            log.warning(
                "the driver tells of a GPU, and PyTorch can use none: models run on the CPU; `python -m bot check` "
                "says why"
            )
        import transformers
        from huggingface_hub.utils import logging as hub_logging

        hub_logging.set_verbosity_error()  # it would tell of every retry, twice
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # bitsandbytes tells at every start that optional kernels for the CPU are not installed.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        attention.use_cudnn(False)
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
        step = Step.CONFIG
        try:
            refuse_non_writers(spec, folder)
            read_config(folder)
            step = Step.TOKENIZER
            tokenizer = read_tokenizer(folder)
            step = Step.WEIGHTS
            with weights_reported(partial(told, doing)):
                model = self._quantized(spec, folder, told)
            step = Step.TEMPLATE
            trim_heap()  # so that the peak is that of one step and not of both
            if not self._plain:
                use_direct_products(model)
                trim_heap()
            return _ready(spec, tokenizer, model, self._now, read_sampling(folder, spec.alias))
        except TokenizerMissing as error:
            raise tokenizer_missing(spec, error) from error
        except Exception as error:  # transformers raises anything
            if error is told.raised:
                raise
            if isinstance(error, BotError):
                traceback.clear_frames(error.__traceback__)
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
                if error is told.raised or is_out_of_memory(error) or any(map(is_of_device, chain_of(error))):
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


def _ready(
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    now: Clock,
    sampling: Mapping[str, float],
) -> LoadedModel:
    usable_ids = _usable_ids(model)
    _warn_of_unusable(spec, tokenizer, usable_ids)
    traits = None
    if tokenizer.chat_template is not None:
        try:
            traits = chat_template.probe(renderer(tokenizer, now))
        except chat_template.TakesNoQuestion as error:
            log.warning("cannot use the chat template of %s: %r", spec.alias, error.__cause__ or error)
            raise chat_template.takes_no_question(spec.alias) from error
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or spec.context_tokens
    context_tokens = min(spec.context_tokens, limit)
    settle_frequencies(model, context_tokens)
    loaded = LoadedModel(
        spec=spec,
        tokenizer=tokenizer,
        model=model,
        traits=traits,
        eos_token_ids=(),
        context_tokens=context_tokens,
        usable_ids=usable_ids,
        now=now,
        thoughts=ThoughtMarks.find(tokenizer),
        vocabulary=fingerprint(tokenizer),
        sampling=sampling,
    )
    _refuse_unusable_template(loaded)
    ends = _eos_token_ids(loaded, usable_ids)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= usable_ids:
        end = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else next(iter(ends), None)
        tokenizer.pad_token = None if end is None else tokenizer.convert_ids_to_tokens(end)
    return replace(loaded, eos_token_ids=ends)


def _usable_ids(model: Any) -> int:
    """How many ids a model can both read and write. The repetition penalty looks for the score of each id in a prompt:
    one that has none would end the whole batch."""
    sizes = [int(model.get_input_embeddings().weight.shape[0])]
    head = model.get_output_embeddings()
    if (written := getattr(head, "out_features", None)) is not None:
        sizes.append(int(written))
    return min(sizes)


def _eos_token_ids(loaded: LoadedModel, usable_ids: int) -> tuple[int, ...]:
    """All ids that end an answer: those of the generation config, the config and the tokenizer, and what the template
    writes behind an answer, which is all that some checkpoints say of it."""
    config: Any = loaded.model.config
    generation: Any = loaded.model.generation_config
    explicit = _ids(getattr(generation, "eos_token_id", None))
    # Where a config names no end, it has its class's: 2 for every Llama, an ordinary word to many a tokenizer.
    implied = _ids(
        getattr(config, "eos_token_id", None), getattr(config.get_text_config(), "eos_token_id", None)
    )
    if getattr(generation, "_from_model_config", False):
        explicit, implied = set(), implied | explicit
    ids = explicit | (implied & loaded.prompts.control_ids)
    # gpt-oss ends a thought with the same token, where the answer only begins.
    behind_answer = _ids(loaded.prompts.end_of_turn()) - set(loaded.thoughts.controls or {})
    ids |= _ids(loaded.tokenizer.eos_token_id) | behind_answer
    return tuple(sorted(id_ for id_ in ids if 0 <= id_ < usable_ids))


def _ids(*named: Any) -> set[int]:
    """What configs name, each an id, a list of them, or None."""
    flat = (id_ for one in named for id_ in (one if isinstance(one, list | tuple) else [one]))
    return {id_ for id_ in flat if isinstance(id_, int)}


def _warn_of_unusable(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, usable_ids: int) -> None:
    """Say in the log which tokens the model has no embedding for. They are never given to it: on a GPU, one such id
    ends everything that runs there."""
    if (count := len(tokenizer) - usable_ids) > 0:
        names = tokenizer.convert_ids_to_tokens(list(range(usable_ids, usable_ids + min(count, _NAMED))))
        log.warning(
            "the tokenizer of %s has %d tokens that the model does not know, such as %s: they are read as text",
            spec.alias,
            count,
            ", ".join(map(str, names)),
        )


def _refuse_unusable_template(loaded: LoadedModel) -> None:
    try:
        unusable = loaded.prompts.unusable_id_of_template()
    except TemplateRefused:
        return  # which a conversation of that form would be told
    if unusable is not None:
        raise ModelUnavailable(
            f"{loaded.spec.alias} cannot be used: its chat template writes the token "
            f"{loaded.tokenizer.convert_ids_to_tokens(unusable)}, which the model does not know. Its tokenizer or its "
            "template is another model's."
        )
