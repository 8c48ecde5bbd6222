"""Chat templates of our own writing, each of which behaves in another way that templates in the wild do.

All are written for the tokenizer of `tokenizer`, which has the control tokens of several families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from bot.chat.messages import Role
from bot.inference.chat_template import TemplateTraits
from tests.inference import tiny

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT

SPECIAL = (
    "<|im_start|>",
    "<|eot_id|>",
    "<|end_of_turn|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|start|>",
    "<|message|>",
    "<|return|>",
    "[INST]",
    "[/INST]",
)
# Added to the vocabulary and not marked special, as some checkpoints have even their ends.
ORDINARY = ("<think>", "</think>", "<|channel|>", "<|end|>", "<|stop|>", "<turn>")


def tokenizer(template: str) -> Any:
    """Byte-level, with every control token that a template here writes."""
    made: Any = tiny.byte_level(chat_template=template)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in ORDINARY])
    return made


_TAKES_ALL = TemplateTraits(accepts_system=True, needs_alternation=False)
_NO_SYSTEM = TemplateTraits(accepts_system=False, needs_alternation=False)
_BY_TURNS = TemplateTraits(accepts_system=False, needs_alternation=True)


@dataclass(frozen=True)
class Case:
    """A template, and what is true of it.

    Attributes:
        template: in Jinja.
        end: the token that its model ends an answer with.
        traits: what the probe has to find out.
        prompt_ends: what stands before an answer.
        holds: what else is in a prompt.
    """

    template: str
    end: str = "</s>"
    traits: TemplateTraits = _TAKES_ALL
    prompt_ends: str = ""
    holds: tuple[str, ...] = ()


def _turns(before: str, after: str, generation: str, content: str = "message.content") -> str:
    """A template that writes every message alike."""
    return (
        "{%- for message in messages -%}"
        + before
        + "{{- "
        + content
        + " -}}"
        + after
        + "{%- endfor -%}{%- if add_generation_prompt -%}"
        + generation
        + "{%- endif -%}"
    )


_HEADER = "{{- '<|im_start|>' + message.role + '\\n' -}}"
_OPEN = "{{- '<|im_start|>assistant\\n' -}}"
_CLOSE = "{{- '<|im_end|>\\n' -}}"
_CHATML = _turns(_HEADER, _CLOSE, _OPEN)

CASES: dict[str, Case] = {
    "plain ChatML": Case(_CHATML, "<|im_end|>", prompt_ends="<|im_start|>assistant\n"),
    "system refused": Case(
        "{%- if messages[0].role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
        + _CHATML,
        "<|im_end|>",
        _NO_SYSTEM,
    ),
    "system dropped": Case(
        _CHATML.replace("for message in messages", "for message in messages if message.role != 'system'"),
        "<|im_end|>",
        _NO_SYSTEM,
    ),
    "system required, else it raises": Case(
        "{%- if messages[0].role != 'system' or not messages[0].content -%}"
        "{{- raise_exception('Conversations must start with a system message') -}}{%- endif -%}" + _CHATML,
        "<|im_end|>",
        TemplateTraits(accepts_system=True, needs_alternation=False, requires_system=True),
    ),
    "system required, else nothing is written": Case(
        "{%- if messages[0].role == 'system' -%}" + _CHATML + "{%- endif -%}",
        "<|im_end|>",
        TemplateTraits(accepts_system=True, needs_alternation=False, requires_system=True),
    ),
    "turns, [INST]": Case(
        "{{- bos_token -}}{%- for message in messages -%}"
        "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles must alternate') -}}"
        "{%- endif -%}{%- if message.role == 'user' -%}{{- '[INST] ' + message.content + ' [/INST]' -}}"
        "{%- else -%}{{- message.content + eos_token -}}{%- endif -%}{%- endfor -%}",
        "</s>",
        _BY_TURNS,
        prompt_ends="[/INST]",
    ),
    "system and then turns, [INST] with <<SYS>>": Case(
        "{%- if messages[0].role == 'system' -%}{%- set rest = messages[1:] -%}{%- set system = "
        "'<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}{%- else -%}{%- set rest = messages -%}"
        "{%- set system = '' -%}{%- endif -%}{%- for message in rest -%}"
        "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('alternate') -}}{%- endif -%}"
        "{%- if message.role == 'user' -%}{{- bos_token + '[INST] ' + (system if loop.first else '') "
        "+ message.content.strip() + ' [/INST]' -}}{%- else -%}{{- ' ' + message.content.strip() + ' ' + eos_token -}}"
        "{%- endif -%}{%- endfor -%}",
        "</s>",
        TemplateTraits(accepts_system=True, needs_alternation=True),
        holds=("<<SYS>>",),
    ),
    "one of two neighbours dropped": Case(
        "{%- set seen = namespace(role='') -%}{%- for message in messages -%}{%- if message.role != seen.role -%}"
        + _HEADER
        + "{{- message.content -}}"
        + _CLOSE
        + "{%- endif -%}{%- set seen.role = message.role -%}{%- endfor -%}{%- if add_generation_prompt -%}"
        + _OPEN
        + "{%- endif -%}",
        "<|im_end|>",
        TemplateTraits(accepts_system=True, needs_alternation=True),
    ),
    "thought opened in the prompt": Case(
        _turns(
            _HEADER,
            _CLOSE,
            "{{- '<|im_start|>assistant\\n<think>\\n' -}}",
            "message.content.split('</think>')[-1] | trim",
        ),
        "<|im_end|>",
        prompt_ends="<think>\n",
    ),
    "thinking switched by a flag in a message": Case(
        "{%- set ns = namespace(think=true) -%}{%- for m in messages -%}{%- if '/no_think' in m.content -%}"
        "{%- set ns.think = false -%}{%- endif -%}{%- endfor -%}"
        + _turns(
            _HEADER,
            _CLOSE,
            _OPEN + "{%- if not ns.think -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}",
        ),
        "<|im_end|>",
        prompt_ends="<|im_start|>assistant\n",
    ),
    "content as parts": Case(
        "{%- for message in messages -%}"
        + _HEADER
        + "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
        "{%- endfor -%}"
        + _CLOSE
        + "{%- endfor -%}{%- if add_generation_prompt -%}"
        + _OPEN
        + "{%- endif -%}",
        "<|im_end|>",
        TemplateTraits(accepts_system=True, needs_alternation=False, parts=frozenset(Role)),
    ),
    "content as parts for the user alone": Case(
        "{%- for message in messages -%}"
        + _HEADER
        + "{%- if message.role == 'user' -%}{{- message.content[0].text -}}{%- else -%}{{- message.content + '' -}}"
        "{%- endif -%}" + _CLOSE + "{%- endfor -%}{%- if add_generation_prompt -%}" + _OPEN + "{%- endif -%}",
        "<|im_end|>",
        TemplateTraits(accepts_system=True, needs_alternation=False, parts=frozenset({USER})),
    ),
    "date by strftime_now": Case(
        "{{- '<|im_start|>system\\nToday: ' + strftime_now('%d %B %Y') + '<|im_end|>\\n' -}}" + _CHATML,
        "<|im_end|>",
        holds=("Today: 29 February 2028",),
    ),
    "date_string with a default of long ago": Case(
        "{%- if not date_string is defined -%}{%- set date_string = '26 Jul 2024' -%}{%- endif -%}"
        "{{- bos_token + 'Today Date: ' + date_string + '\\n' -}}"
        + _turns(
            "{{- '<|start|>' + message.role + '\\n\\n' -}}",
            "{{- '<|eot_id|>' -}}",
            "{{- '<|start|>assistant\\n\\n' -}}",
            "message['content'] | trim",
        ),
        "<|eot_id|>",
        holds=("Today Date: 29 Feb 2028",),
    ),
    "tools, of which there are none": Case(
        "{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + tools[0].function.name -}}{%- endif -%}"
        "{%- for message in messages -%}{%- if message.tool_calls -%}{{- message.tool_calls[0].name -}}{%- endif -%}"
        + _HEADER
        + "{{- message.content -}}"
        + _CLOSE
        + "{%- endfor -%}{%- if add_generation_prompt -%}"
        + _OPEN
        + "{%- endif -%}",
        "<|im_end|>",
    ),
    "TypeError on a system message": Case(
        _turns(
            "{{- 1 + messages[0].role if messages[0].role == 'system' else '<|user|>' -}}",
            "{{- '<|end|>' -}}",
            "",
        ),
        "<|end|>",
        _NO_SYSTEM,
    ),
    "KeyError, IndexError and UndefinedError": Case(
        "{%- set headers = {'user': '<|user|>', 'assistant': '<|assistant|>'} -%}"
        + _turns(
            "{{- headers[message.role] + '\\n' -}}", "{{- '<|end|>\\n' -}}", "{{- '<|assistant|>\\n' -}}"
        ),
        "<|end|>",
        _NO_SYSTEM,
        prompt_ends="<|assistant|>\n",
    ),
    "ZeroDivisionError on neighbours": Case(
        "{%- for message in messages[1:] -%}{%- if message.role == messages[loop.index0].role -%}{{- 1 // 0 -}}"
        "{%- endif -%}{%- endfor -%}" + _CHATML,
        "<|im_end|>",
        TemplateTraits(accepts_system=True, needs_alternation=True),
    ),
    "no earlier answers taken": Case(
        _turns(
            "{%- if message.role == 'assistant' -%}{{- raise_exception('one question only') -}}{%- endif -%}"
            + _HEADER,
            _CLOSE,
            _OPEN,
        ),
        "</s>",
        TemplateTraits(accepts_system=True, needs_alternation=False, accepts_assistant=False),
    ),
    "an end that only the template names": Case(
        _turns(
            "{{- '<turn>' + message.role + ': ' -}}", "{{- '<|stop|>\\n' -}}", "{{- '<turn>assistant: ' -}}"
        ),
        "<|stop|>",
        prompt_ends="<turn>assistant: ",
    ),
    "an end behind a newline": Case(
        _turns("{{- '<|user|>' -}}", "{{- '\\n<|end_of_turn|>' -}}", "{{- '<|assistant|>' -}}"),
        "<|end_of_turn|>",
    ),
    "the next header is the end": Case(
        _turns("{{- '<|' + message.role + '|>\\n' -}}", "", "{{- '<|assistant|>\\n' -}}"), "<|user|>"
    ),
    "its own end, and then the tokenizer's": Case(
        _turns(
            "{{- '<|' + message.role + '|>\\n' -}}",
            "{{- '<|end|>\\n' -}}",
            "{{- '<|assistant|>\\n' -}}",
        )
        + "{%- if not add_generation_prompt -%}{{- eos_token -}}{%- endif -%}",
        "<|end|>",
    ),
    "trims, capitals": Case(
        _turns("{{- '<turn>' -}}", "{{- '<|stop|>' -}}", "", "message.content | trim | capitalize"),
        "<|stop|>",
    ),
    "harmony-like": Case(
        "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
        "{{- '<|start|>assistant<|channel|>final<|message|>' + message.content -}}"
        "{%- if loop.last and not add_generation_prompt -%}{{- '<|return|>' -}}{%- else -%}"
        "{{- '<|end|>' -}}{%- endif -%}"
        "{%- else -%}{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' -}}{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}",
        "<|return|>",
        prompt_ends="<|start|>assistant",
    ),
    "messages as JSON": Case(
        "{{- '<turn>' + (messages | tojson) -}}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}",
        "</s>",
        prompt_ends="<|assistant|>",
    ),
}
