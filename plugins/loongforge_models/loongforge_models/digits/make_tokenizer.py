"""Makes the folder `tokenizer/`: python -m loongforge_models.digits.make_tokenizer

A byte is a token, whose id is the byte; six special tokens follow. A role is one token and a turn has no line breaks, because a
tiny model pays for every byte: `<|user|><image>Digit?<|end|><|assistant|>7<|end|>`.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL_TOKENS = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<image>")

# Content is a string, or parts as AutoProcessor.apply_chat_template gives them.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('unknown role: ' ~ message.role) -}}
    {%- endif -%}
    {{- '<|' ~ message.role ~ '|>' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {{- '<image>' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- else -%}
                {{- raise_exception('unknown kind of content: ' ~ part.type) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    characters = bytes_to_unicode()  # the printable character that stands for each byte, in every byte-level tokenizer
    tokenizer = Tokenizer(models.BPE(vocab={characters[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|pad|>", "<|end|>")],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


if __name__ == "__main__":
    make_tokenizer().save_pretrained(Path(__file__).parent / "tokenizer")
