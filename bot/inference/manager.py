"""transformers' batching with our attention, from what its scheduler knows.

A model in a batch has our attention (`attention.py`); `give_back` returns its own. For ours transformers makes no
masks: one over all tokens and keys is 0.5 GB for pieces of 2,048 tokens and a cache of 131,072. Nor does it list where
each key of a step is, 64,000 numbers a step for sixteen people with 4,000 tokens each: pages are enough.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bot.inference import attention
from bot.inference.layout import Step

if TYPE_CHECKING:
    from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel


def batching_manager(
    model: PreTrainedModel, generation: GenerationConfig, batching: ContinuousBatchingConfig
) -> Any:
    """transformers' `ContinuousBatchingManager` for a model that now has our attention."""
    attention.register()
    return _manager_class()(model=model, generation_config=generation, continuous_batching_config=batching)


@cache
def _manager_class() -> type[Any]:
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
    from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs

    class Inputs(ContinuousBatchingIOs):  # type: ignore[misc, unused-ignore]
        """transformers' own, which tells the attention who adds how many tokens."""

        step: Step

        def prepare_batch_tensors(self, requests_in_batch: Any, *args: Any, **kwargs: Any) -> None:
            self.step = Step(
                [
                    (one.state.request_id, one.state.position_offset, one.query_length)
                    for one in requests_in_batch
                ]
            )
            # As if nothing were to be read: it would list the place of each key.
            super().prepare_batch_tensors(requests_in_batch, *args, **{**kwargs, "max_kv_read": 0})

        def get_model_kwargs(self, use_padding: bool = False) -> Any:
            return {**super().get_model_kwargs(use_padding=use_padding), attention.STEP: self.step}

    class Manager(ContinuousBatchingManager):  # type: ignore[misc, unused-ignore]
        """transformers' own, which gives a model our attention, whatever else is installed."""

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
            processor.inputs_and_outputs.__class__ = Inputs
            return processor

    return Manager
