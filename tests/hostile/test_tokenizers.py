"""Tokenizers and their chat templates: no class is imported, no template leaves its sandbox, and no conversation is one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from attacks import DEEP, Place, code, refused, with_code

from loongforge_core.data import template
from loongforge_core.data.conversations import parse_question
from loongforge_core.data.sample import SampleMaker
from loongforge_core.data.template import ChatTemplate
from loongforge_core.errors import DataError
from loongforge_core.registry.registry import Registry


def tokenizer_with(place: Place, files: Mapping[str, str]) -> Path:
    found = Registry.discover().resource("pkg://loongforge_models/digits/tokenizer")
    folder = place.folder / "tokenizer"
    shutil.copytree(found, folder)
    for name, content in files.items():
        place.file(f"tokenizer/{name}", content)
    return folder


TOKENIZERS: Mapping[str, Callable[[Place], Mapping[str, str]]] = {
    "a class of its own": lambda place: {
        "tokenizer_config.json": with_code({"tokenizer_class": "HostileTokenizer"}),
        "hostile.py": code(place),
    },
    "brackets without end": lambda place: {"tokenizer.json": DEEP},
    "configuration without end": lambda place: {"tokenizer_config.json": DEEP},
}


@pytest.mark.parametrize("attack", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer(place: Place, capsys: pytest.CaptureFixture[str], attack: Callable[[Place], Mapping[str, str]]) -> None:
    folder = tokenizer_with(place, attack(place))
    refused(capsys, ["train", "digits", *place.overrides(), f"tokenizer={folder}"], str(folder))
    assert not (place.folder / "out" / "metrics.jsonl").exists()


def test_a_class_that_a_tokenizer_is_not_made_of_is_left_alone(place: Place) -> None:
    """What stands in its `tokenizer.json` is all that is needed."""
    model = with_code({"model_type": "hostile"})
    for tokenizer in ({}, {"tokenizer_class": "os.mkdir"}, {"tokenizer_class": "hostile.Hostile"}):
        folder = tokenizer_with(place, {"tokenizer_config.json": json.dumps(tokenizer), "config.json": model, "hostile.py": code(place)})
        assert ChatTemplate(folder, {}).tokenizer.is_fast
        shutil.rmtree(folder)


TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by a filter": "{{ (''|attr('__class__'))|attr('__mro__') }}",
    "classes by formatting": "{{ '{0.__class__.__mro__}'.format('') }}",
    "classes by a map": "{{ [['']]|map('first')|map(attribute='__class__')|list|string }}",
    "a function's globals": "{{ raise_exception.__globals__['os'].mkdir('CANARY') }}",
    "a helper's globals": "{{ strftime_now.__globals__['sys'].modules['os'].mkdir('CANARY') }}",
    "a class's globals": "{{ cycler.__init__.__globals__.os.mkdir('CANARY') }}",
    "a generator's frame": "{{ messages|map('upper').gi_frame.f_globals }}",
    "its own globals": "{{ self.__init__.__globals__ }}{{ lipsum.__globals__['os'].mkdir('CANARY') }}",
    "its environment": "{{ self._TemplateReference__context.environment.from_string('x') }}",
    "another file": "{% include '/etc/passwd' %}",
    "another template": "{% import '/etc/passwd' as x %}{% extends x %}",
    "a change of its input": "{{ messages.append({'role': 'user', 'content': 'CANARY'}) }}",
    "a range without end": "{% for i in range(10**9) %}x{% endfor %}",
    "itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "not closed": "{% for message in messages %}",
}


@pytest.mark.parametrize("attack", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template(place: Place, attack: str) -> None:
    """Refused when the folder is opened, or, where what it asks for is left empty, because nothing is written."""
    folder = tokenizer_with(place, {"chat_template.jinja": attack.replace("CANARY", str(place.canary))})
    with pytest.raises(DataError, match=str(folder)):
        ChatTemplate(folder, {}).tokenise(parse_question("Digit?", {}, []), "generate")


def test_a_chat_template_that_does_not_end(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "RENDERING_S", 0.3)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    folder = tokenizer_with(place, {"chat_template.jinja": loops})
    refused(capsys, ["train", "digits", *place.overrides(), f"tokenizer={folder}"], "does not come to an end: it takes more than 0.3 s")


def test_a_conversation_is_no_template(place: Place, maker: SampleMaker) -> None:
    asked = "{{ cycler.__init__.__globals__.os.mkdir('x') }} ${oc.env:SECRET} $SECRET {0.__class__} %s"
    tokens = maker.template.tokenise(parse_question(asked, {}, ["image"]), "generate").token_ids
    assert asked in maker.template.tokenizer.decode(tokens)
