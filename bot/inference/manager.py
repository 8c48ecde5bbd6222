"""transformers' batching with our attention, from what its scheduler knows.

A model in a batch has our attention (`attention.py`); `give_back` returns its own. For ours transformers makes no
masks: one over all tokens and keys is 0.5 GB for pieces of 2,048 tokens and a cache of 131,072. Nor does it list where
each key of a step is, 64,000 numbers a step for sixteen people with 4,000 tokens each: pages are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from bot.inference import attention
from bot.inference.fixed_step import FixedTables
from bot.inference.graphs import Capture, DecodeGraphs, can_be_recorded, runner_class
from bot.inference.layout import Step

if TYPE_CHECKING:
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel


def batching_manager(
    model: PreTrainedModel, generation: GenerationConfig, batching: ContinuousBatchingConfig
) -> Any:
    """transformers' `ContinuousBatchingManager` for a model that now has our attention."""
    attention.register()
    return _manager_class()(model=model, generation_config=generation, continuous_batching_config=batching)


def needs_staging(device: torch.device) -> bool:
    """Whether what is written to this device one by one is waited for."""
    return device.type == "cuda"


@cache
def _inputs_class() -> type[Any]:
    import torch
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs

    class Inputs(ContinuousBatchingIOs):  # type: ignore[misc, unused-ignore]
        """transformers' own, which tells the attention who adds how many tokens.

        Attributes:
            staging: another one in memory that the device reads by itself, in which each step is written down and from
                which it is copied at once; None writes each list to the device, which is waited for. transformers does
                this for its asynchronous batching only.
            decoding: recorded steps; None where none are recorded.
            fixed: where this step is written down, if it is one that can be recorded.
        """

        step: Step
        staging: ContinuousBatchingIOs | None = None
        decoding: DecodeGraphs | None = None
        fixed: FixedTables | None = None

        def prepare_batch_tensors(self, requests_in_batch: Any, *args: Any, **kwargs: Any) -> None:
            self.step = Step(
                [
                    (one.state.request_id, one.state.position_offset, one.query_length)
                    for one in requests_in_batch
                ]
            )
            # As if nothing were to be read: it would list the place of each key.
            kwargs = {**kwargs, "max_kv_read": 0}
            if self.decoding is not None:
                kwargs |= self._fix(self.decoding, requests_in_batch, kwargs["logits_processors"])
            if self.staging is None:
                super().prepare_batch_tensors(requests_in_batch, *args, **kwargs)
                return
            self.staging.prepare_batch_tensors(requests_in_batch, *args, **kwargs)
            stream: Any = None  # the one that this thread is on
            self.staging._transfer_inputs(self, stream, non_blocking=True)
            self.requests_in_batch = self.staging.requests_in_batch
            if self.compute_stream is not None:
                self.compute_stream.wait_stream(torch.cuda.current_stream(self.device))

        def _fix(self, graphs: DecodeGraphs, requests_in_batch: Any, sampler: Any) -> dict[str, Any]:
            """Write the step down where it can be recorded; what else is to be told to transformers then."""
            all_draw = all(one.has_new_token for one in requests_in_batch)
            self.fixed = graphs.tables(self.step.requests) if all_draw else None
            if self.fixed is None:
                sampler.rows = 0
                return {}
            self.fixed.fill(self.step.requests)
            sampler.rows = self.fixed.shape.rows
            return {"num_q_tokens": self.fixed.shape.rows, "use_padding": True}

        def get_model_kwargs(self, use_padding: bool = False) -> Any:
            is_padded = use_padding or self.fixed is not None
            return {**super().get_model_kwargs(use_padding=is_padded), attention.STEP: self.step}

    return Inputs


@cache
def _manager_class() -> type[Any]:
    import torch
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs

    class Manager(ContinuousBatchingManager):  # type: ignore[misc, unused-ignore]
        """transformers' own, which gives a model our attention, whatever else is installed.

        Attributes:
            new_capture: makes what records steps; None for recording none.
        """

        new_capture: Callable[[], Capture] | None = None

        def switch_to_cb_friendly_attn(self, model: Any, auto_switch_to_flash: bool = False) -> None:
            if model.config._attn_implementation != attention.NAME:
                self._original_attn_impl = model.config._attn_implementation
                model.set_attn_implementation(attention.NAME)

        def give_back(self) -> None:
            """The model gets its own attention back, until it is started again."""
            if self._original_attn_impl is not None:
                self.model.set_attn_implementation(self._original_attn_impl)
                self._original_attn_impl = None

        def _create_batch_processor(self) -> Any:
            processor = super()._create_batch_processor()
            inputs: Any = processor.inputs_and_outputs
            inputs.__class__ = _inputs_class()
            if inputs.staging is None and needs_staging(inputs.device):
                inputs.staging = ContinuousBatchingIOs(
                    cache=inputs.cache,
                    config=inputs.config,
                    continuous_batching_config=self.continuous_batching_config,
                    device=torch.device("cpu"),
                    model_dtype=inputs.model_dtype,
                    logit_processor=self.logit_processor,
                )
            if self.new_capture is not None and can_be_recorded(self.model):
                most = inputs.max_requests_per_batch
                inputs.decoding = DecodeGraphs(self.new_capture(), inputs.cache, most, inputs.device)
                processor.model_runner.__class__ = runner_class()
            return processor

    return Manager
