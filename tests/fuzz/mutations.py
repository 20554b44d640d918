"""Text as a slip of the hand, a bad merge or a damaged disk leaves it: seeded, so that whatever fails can be made again."""

# ruff: noqa: E501 (texts side by side, each with its like)
from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

__all__ = ["damaged", "mutated"]

VALUES = (
    *("0", "-1", "1", "2", "3", "7", "1.5", "-0.0", "1e-5", "1e400", "-1e400", ".nan", ".inf", "0x1F", "0o17", "0b1", "1_000", "1:30", "007"),
    *("9" * 30, "9" * 5000, "1" + "0" * 400, "123456789012345678", "4294967296", "-9223372036854775809"),
    *("true", "false", "yes", "no", "on", "null", "~", "", "NULL", "None", "nan", "2001-12-14", "2001-12-14t21:59:43.10-05:00", "=", "<<", "-", "?"),
    *("[]", "{}", "[1, 2, 3]", "[[[]]]", "{a: 1}", "{type: siglip}", "[a, b", "{a: b", "]", "}", "- 1", "a: b", "[null]", "{? a}", "[a: 1]"),
    *("'", '"', "''", '""', "'a", '"\\ud83d"', '"\\x00"', '"\\u0085"', '"\\N"', "\x07", "\ufeff", "\u2028", "\x00", "é", "漢字", "😀", "a\u0301", "\u202e"),
    *("&a 1", "*a", "*missing", "&a [*a]", "&a {b: *a}", "{<<: *a}", "{<<: 3}", "{<<: [1, {a: b}]}", "&a &b 1", "!!int 3", "!!str 3", "!!binary aGk=", "!!set {a}"),
    *("!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!local x", "!<tag:x,2000:y> z", "! x", "!!float x", "!!int x", "!!bool x", "!!null x"),
    *("!!timestamp 2001-12-14", "!!map [1]", "!!seq {a: b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!merge x", "!!value x", "%YAML 9.9", "---", "...", "@a", "`a`", "%a", "# b"),
    *("${", "${}", "${a}", "${model}", "${.}", "${..}", "${.a}", "${train.lr}", "${train}", "${output_dir}", "${output_dir", "$", "$$", "\\${a}", "a${train.lr}b"),
    *("${oc.env:HOME}", "${oc.env:NO_SUCH}", "${oc.env:A,b}", "${oc.create:{a: 1}}", "${oc.select:a}", "${oc.decode:'['}", "${oc.dict.keys:model}", "${oc.dict.values:train}"),
    *("${oc.deprecated:a}", "${hydra:job}", "${hydra:runtime.cwd}", "${now:%Y}", "${eval:1}", "${python_version:}", "${loss_func:a}", "${loss_func:}", "${loss_func}", "${act:${act:x}}"),
    *('${moe_freq:"[0]*1+[1]*3"}', '${moe_freq:"[0]*99999999"}', "${moe_freq:x}", "${moe_freq:[0]}", "${position_func:[a,b]}", "${a:b:c}", "${'a'}", "${a[0]}", "${a.b[c].d}"),
    *("???", "|", ">", "|\n    a\n   b", ">-\n      folded", "a" * 100_000, "a b" * 3000, "[" * 50, "[" * 3000, "{a: " * 100, "- " * 200, "? " * 50, "${" * 60, "${a" * 40 + "}" * 40),
    *("/", ".", "..", "../x", "/dev/null", "/etc/passwd", "pkg://", "pkg://x", "pkg://loongforge_models/../..", "pkg://loongforge_models/digits/tokenizer", "http://x", "~/x", "a\\b", "x.yaml"),
    *("siglip", "qwen2", "mlp", "llava", "default", "intern_vl", "whisper", "fp32", "bf16", "torch", "transformer_engine", "cosine", "digits", "image", "video", "_self_"),
)  # fmt: skip
KEYS = (
    *("type", "model", "model_type", "defaults", "train", "data", "parallel", "tokenizer", "output_dir", "hydra", "image_encoder", "foundation"),
    *("image_projector", "video_encoder", "x_encoder", "_encoder", "encoder", "num_layers", "hidden_size", "lr", "freeze", "pretrained", "backend"),
    *("also_encodes", "augment", "path", "prepare", "layout", "encoders", "rotary_scaling", "moe_layer_freq", "model_spec", "loss_func", "a.b"),
    *("''", '"a.b"', "1", "null", "true", "[a]", "{a: b}", "? a", "<<", "*a", "&a b", "!!int 3", "a" * 1025, "a" * 300, "é", "_target_", "_args_", "_partial_"),
    *("_recursive_", "_global_", "_self_", "_here_", "_name_", "@", "a@b", "${a}", "a/b", "", " ", "-", "override a", "__class__", "model.foundation"),
    *("train.lr", "0", "keys", "items", "get", "pop", "copy", "_content", "_metadata", "package", "# @package x", "😀"),
)  # fmt: skip
LINES = (
    *("# @package _global_", "# @package foo", "# @package model.foundation", "# @package _group_", "# @package", "---", "...", "%YAML 1.2", "%TAG ! x:"),
    *("defaults: [digits]", "defaults:\n  - digits\n  - _self_", "defaults: [_self_, _self_]", "defaults: {a: b}", "defaults: [[a]]", "defaults: [{a: b, c: d}]"),
    *("defaults: [{image_encoder@model.image_encoder: no_such}]", "defaults: [mutated]", "defaults: [other]", "defaults: [{optional nothing: x}]", "defaults: [null]"),
    *("defaults: ['${a}']", "defaults: [{'${a}': b}]", "defaults: [{image_encoder@model.image_encoder: '${train.lr}'}]", "defaults: [3, 4.5, true]", "defaults: ['a@b@c']"),
    *("defaults: [{override image_encoder@model.image_encoder: siglip_base_224}]", "defaults: [{image_encoder: [siglip_base_224, llava_vit]}]", "defaults: ['']", "defaults: ['/']"),
    *("defaults: [{'@': x}]", "defaults: [{'a@': x}]", "defaults: [{image_encoder@: siglip_base_224}]", "defaults: [{image_encoder@_global_: siglip_base_224}]", "defaults: [../x, /y]"),
    *("defaults: [{image_encoder@_here_.x: siglip_base_224}]", "defaults: [{image_encoder@..: siglip_base_224}]", "defaults: [{experimental/x: y}]", "defaults: [image_encoder]"),
    *("x: &a {b: 1}", "y: *a", "<<: *a", "<<: {model: 3}", "- 1", "? [a, b]\n: c", "model: {}", "model: 3", "train: {lr: 1}", "train: ${data}", "data: ${train}", "hydra: {run: 1}"),
    *("a: ${b}\nb: ${a}", "a: ${a}", "output_dir: ${output_dir}", "train: {lr: '${train.min_lr}', min_lr: '${train.lr}'}", "parallel: {tensor_model_parallel_size: 3}", "\t", "\tx: 1"),
    *("x: |\n  a\n b", "parallel: {image_encoder: {layout: tensor}}", "parallel: {encoders: {}}", "parallel: {pipeline_model_parallel_size: 1000000000}", "train: {micro_batch_size: 7}"),
    *("train: {seq_length: 1}", "train: {seq_length: 1000000000000000000000}", "train: {global_batch_size: 99999999999999999999}", "data: {augment: {image: {ramp: 3}}}"),
)  # fmt: skip


def mutated(text: str, draw: random.Random) -> str:
    """One to four mutations, one after the other."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        text = draw.choice(MUTATIONS)(text, draw)
    return text


def damaged(content: bytes, draw: random.Random, *, bits: bool = False) -> bytes:
    """A few bytes changed, or one bit; or a piece cut out, repeated, or the end lost."""
    if not content:
        return content
    data, at = bytearray(content), draw.randrange(len(content))
    kind = "bit" if bits else draw.choice(("bit", "bytes", "cut", "repeat", "end"))
    length = min(draw.choice((1, 2, 4, 16, 64)), len(content))
    if kind == "bit":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "bytes":
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice((0, 255, 127, 128, draw.randrange(256)))
    elif kind == "cut":
        del data[at : at + length]
    elif kind == "repeat":
        data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
    else:
        del data[at:]
    return bytes(data)


def _on_a_line(change: Callable[[list[str], int, random.Random], object]) -> Callable[[str, random.Random], str]:
    def mutation(text: str, draw: random.Random) -> str:
        lines = text.split("\n")
        change(lines, draw.randrange(len(lines)), draw)
        return "\n".join(lines)

    return mutation


def _drop(lines: list[str], at: int, draw: random.Random) -> None:
    del lines[at : at + draw.choice((1, 1, 1, 2, 5))]
    if not lines:
        lines.append("")


def _repeat(lines: list[str], at: int, draw: random.Random) -> None:
    lines.insert(draw.choice((at, draw.randrange(len(lines)))), lines[at])


def _swap(lines: list[str], at: int, draw: random.Random) -> None:
    other = draw.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _indent(lines: list[str], at: int, draw: random.Random) -> None:
    line = lines[at]
    indents = (" " + line, "  " + line, "\t" + line, line.lstrip(), line.removeprefix(" "), line.removeprefix("  "), "    " * 20 + line)
    lines[at] = draw.choice(indents)


def _value(lines: list[str], at: int, draw: random.Random) -> None:
    key, colon, _ = lines[at].partition(":")
    lines[at] = f"{key}{colon or ':'} {draw.choice(VALUES)}"


def _key(lines: list[str], at: int, draw: random.Random) -> None:
    match = re.match(r"(\s*(?:- )?)([^:]*)(.*)", lines[at], re.DOTALL)
    assert match is not None
    lines[at] = f"{match[1]}{draw.choice(KEYS)}{match[3]}"


def _insert(lines: list[str], at: int, draw: random.Random) -> None:
    indent = re.match(r"\s*", lines[at])
    assert indent is not None
    new = draw.choice((draw.choice(LINES), f"{indent[0]}{draw.choice(KEYS)}: {draw.choice(VALUES)}", f"{indent[0]}- {draw.choice(VALUES)}"))
    lines.insert(draw.choice((0, at, at, len(lines))), new)


def _token(lines: list[str], at: int, draw: random.Random) -> None:
    words = [match.span() for match in re.finditer(r"[\w.${}/-]+", lines[at])]
    if words:
        start, end = draw.choice(words)
        lines[at] = lines[at][:start] + draw.choice((*VALUES, *KEYS)) + lines[at][end:]


def _nest(lines: list[str], at: int, draw: random.Random) -> None:
    depth = draw.choice((5, 60, 400, 2000))
    lines[at] = draw.choice(
        (f"x: {'[' * depth}{']' * depth}", f"x: {'{a: ' * depth}1{'}' * depth}", "\n".join(f"{' ' * n}a:" for n in range(depth)))
    )


def _bytes(text: str, draw: random.Random) -> str:
    return damaged(text.encode("utf-8", "surrogateescape"), draw).decode("utf-8", "surrogateescape")


def _typo(text: str, draw: random.Random) -> str:
    if not text:
        return text
    at = draw.randrange(len(text))
    return (
        text[:at]
        + draw.choice(("", " ", ":", ": ", "\n", "'", '"', "-", ",", "#", "[", "{", "$", "&", "*", "!", "%", "@", "\t", "é"))
        + text[at + draw.choice((0, 1)) :]
    )


MUTATIONS: Sequence[Callable[[str, random.Random], str]] = (
    *map(_on_a_line, (_drop, _repeat, _swap, _indent, _value, _value, _key, _insert, _insert, _token, _token, _nest)),
    *(_bytes, _typo, _typo),
)
