"""Hostile files (I7): nothing in YAML, checkpoints, weights, tokenizers and data is executed, fetched or followed out of its folder.

Each attack would leave a canary, an empty folder, or show a secret. Whoever meets the file is told in one message, with exit status 2.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from loongforge_core.cli.main import main
from loongforge_core.config.check import load_composition
from loongforge_core.data import template
from loongforge_core.data.conversations import ConversationFiles, parse_question
from loongforge_core.data.sample import SampleMaker
from loongforge_core.data.template import ChatTemplate
from loongforge_core.data.time_limit import time_limit
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.errors import DataError
from loongforge_core.registry.registry import Registry
from loongforge_core.train.refuse_code import MetadataUnpickler

SECRET = "hunter2"
LINE = {
    "messages": [{"role": "user", "content": "<image>Digit?"}, {"role": "assistant", "content": "7"}],
    "images": ["seven.png"],
}
STEP = ["data.prepare=null", "data.eval_path=null", "train.steps=1", "train.global_batch_size=1", "train.micro_batch_size=1"]


@dataclass(frozen=True)
class Place:
    """Where an attack is laid out, and a sound run beside it."""

    run: Path
    folder: Path

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def overrides(self) -> list[str]:
        data = [f"data.path={self.run / 'good.jsonl'}", f"output_dir={self.folder / 'out'}"]
        return [*STEP, "train.lr_warmup_steps=0", "train.export_hf=false", *data]

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of training, with its checkpoint and its Hugging Face folder."""
    folder = tmp_path_factory.mktemp("run")
    Image.new("L", (8, 8), 100).save(folder / "seven.png")
    (folder / "good.jsonl").write_text(json.dumps(LINE) + "\n")
    torch.set_num_threads(1)
    overrides = [*Place(folder, folder).overrides(), "train.export_hf=true"]
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        alone(patch)
        assert main(["train", "digits", *overrides]) == 0
    return folder


@pytest.fixture
def place(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    alone(monkeypatch)
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attack").mkdir()
    found = Place(run, tmp_path / "attack")
    with time_limit(60.0):
        yield found
    assert not found.canary.exists()


def alone(patch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"):
        patch.delenv(name, raising=False)
    patch.setenv("OMP_NUM_THREADS", "1")


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str) -> None:
    capsys.readouterr()
    status = main(arguments)
    shown = capsys.readouterr()
    assert status == 2, shown.err
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert SECRET not in shown.out + shown.err


class Payload:
    """What pickle makes by calling `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def payload(place: Place) -> Payload:
    return Payload(os.mkdir, str(place.canary))


def test_the_canary_sings(place: Place) -> None:
    """The payload does what the tests below look for, where nobody prevents it."""
    pickle.loads(pickle.dumps(payload(place)))
    assert place.canary.exists()
    place.canary.rmdir()


# -------------------------------------------------------------------------------------------------------------- checkpoints

DEEP = "[" * 100_000


def metadata(place: Place, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(payload(place)))


def old_metadata(place: Place, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(b'cbuiltins\neval\n(S\'__import__("os").mkdir("%s")\'\ntR.' % os.fsencode(place.canary))


def common_state(place: Place, checkpoint: Path) -> None:
    torch.save({"a": payload(place)}, checkpoint / "common.pt")


def tensor(place: Place, checkpoint: Path) -> None:
    overwrite(place, checkpoint, "TensorStorageMetadata")


def entry(place: Place, checkpoint: Path) -> None:
    overwrite(place, checkpoint, "BytesStorageMetadata")


def overwrite(place: Place, checkpoint: Path, kind: str) -> None:
    """The bytes of an entry, which torch reads as a file of its own."""
    found = sound_metadata(checkpoint)
    index = next(index for index in found.storage_data if type(found.state_dict_metadata[index.fqn]).__name__ == kind)
    stored, hostile = found.storage_data[index], io.BytesIO()
    torch.save(payload(place), hostile, _use_new_zipfile_serialization=False)
    assert len(hostile.getvalue()) <= stored.length
    with (checkpoint / stored.relative_path).open("r+b") as file:
        file.seek(stored.offset)
        file.write(hostile.getvalue())


def file_elsewhere(place: Place, checkpoint: Path) -> None:
    found = sound_metadata(checkpoint)
    for stored in found.storage_data.values():
        stored.relative_path = f"../{checkpoint.name}/{stored.relative_path}"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(found))


def record(place: Place, checkpoint: Path) -> None:
    (checkpoint / "loongforge.json").write_text(DEEP)


def sound_metadata(checkpoint: Path) -> Any:
    return MetadataUnpickler(io.BytesIO((checkpoint / ".metadata").read_bytes())).load()


CHECKPOINTS: Mapping[str, tuple[Callable[[Place, Path], None], str]] = {
    "a pickle as metadata": (metadata, "cannot be loaded safely: UnpicklingError: it names posix.mkdir"),
    "a pickle of the oldest kind": (old_metadata, "cannot be loaded safely: UnpicklingError: it names builtins.eval"),
    "a pickle as common state": (common_state, "cannot be loaded safely"),
    "a pickle as a tensor": (tensor, "cannot be loaded: rank 0: UnpicklingError: Weights only load failed"),
    "a pickle as an entry": (entry, "cannot be loaded safely"),
    "a file outside its folder": (file_elsewhere, "which is not in the folder"),
    "a record without end": (record, "is not what a checkpoint says of itself"),
}


@pytest.mark.parametrize(("attack", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint(place: Place, capsys: pytest.CaptureFixture[str], attack: Callable[[Place, Path], None], message: str) -> None:
    checkpoint = place.folder / "step_00000001"
    shutil.copytree(place.run / "out" / "checkpoints" / "step_00000001", checkpoint)
    attack(place, checkpoint)
    refused(capsys, ["generate", "digits", *place.overrides(), "--prompt", "1+1?", "--checkpoint", str(checkpoint)], message)


# ------------------------------------------------------------------------------------------------------ Hugging Face folders


def hf_with(place: Place, files: Mapping[str, str | bytes], *without: str) -> Path:
    """The run's folder with other files."""
    folder = place.folder / "hf"
    shutil.copytree(place.run / "out" / "hf", folder)
    for name in without:
        (folder / name).unlink()
    for name, content in files.items():
        place.file(f"hf/{name}", content)
    return folder


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def index_of(file: str) -> str:
    return json.dumps({"weight_map": {"a": file}})


WEIGHTS = "model.safetensors"
FOLDERS: Mapping[str, tuple[Callable[[Place], Path], str]] = {
    "a pickle in another's name": (lambda place: hf_with(place, {WEIGHTS: pickle.dumps(payload(place))}), "cannot be read as safetensors"),
    "a pickle": (lambda place: hf_with(place, {"pytorch_model.bin": pickle.dumps(payload(place))}, WEIGHTS), "can run code"),
    "a header without end": (lambda place: hf_with(place, {WEIGHTS: header(b"{}", 2**60)}), "cannot be read as safetensors"),
    "a header within headers": (lambda place: hf_with(place, {WEIGHTS: header(DEEP.encode())}), "cannot be read as safetensors"),
    "weights outside the folder": (
        lambda place: hf_with(place, {f"{WEIGHTS}.index.json": index_of("../other.safetensors")}, WEIGHTS),
        "which is not in the folder",
    ),
    "weights anywhere": (
        lambda place: hf_with(place, {f"{WEIGHTS}.index.json": index_of("/etc/passwd")}, WEIGHTS),
        "which is not in the folder",
    ),
    "a configuration without end": (lambda place: hf_with(place, {"config.json": DEEP}), "cannot be read as JSON"),
}


@pytest.mark.parametrize(("attack", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_of_weights(place: Place, capsys: pytest.CaptureFixture[str], attack: Callable[[Place], Path], message: str) -> None:
    to = ["--folder", str(attack(place)), "--output", str(place.folder / "imported")]
    refused(capsys, ["import-hf", "digits", *place.overrides(), *to], message)
    assert not (place.folder / "imported").exists()


def code(place: Place) -> str:
    """A module that sings when it is imported."""
    return f"import os\nos.mkdir({str(place.canary)!r})\nclass Hostile: pass\n"


def with_code(tree: Mapping[str, Any]) -> str:
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor")
    both = {"AutoTokenizer": ["hostile.Hostile", "hostile.Hostile"]}
    return json.dumps({**tree, "auto_map": {**{name: "hostile.Hostile" for name in names}, **both}})


def test_code_beside_a_model_is_left_alone(place: Place) -> None:
    """Published folders have it, such as InternVL's; it is not read."""
    config = json.loads((place.run / "out" / "hf" / "config.json").read_text())
    folder = hf_with(place, {"config.json": with_code(config), "hostile.py": code(place)})
    to = ["--folder", str(folder), "--output", str(place.folder / "imported")]
    assert main(["import-hf", "digits", *place.overrides(), *to]) in (0, 2)


# --------------------------------------------------------------------------------------------------------------- tokenizers


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


# --------------------------------------------------------------------------------------------------------------------- YAML

GOOD = "defaults: [digits]\n"
TAG = "the tag"
ENVIRONMENT = "files read no environment variables"
YAML = {
    "a call": (GOOD + "train: {lr: !!python/object/apply:os.mkdir [CANARY]}", TAG),
    "a call of another kind": (GOOD + "train: !!python/object/new:os.mkdir [CANARY]", TAG),
    "a call with state": (GOOD + "train: !!python/object/apply:os.mkdir {args: [CANARY]}", TAG),
    "an object": (GOOD + "train: !!python/object:argparse.Namespace {a: 1}", TAG),
    "a name": (GOOD + "train: {lr: !!python/name:os.mkdir ''}", TAG),
    "a module": (GOOD + "train: {lr: !!python/module:this ''}", TAG),
    "a tag in a list of defaults": ("defaults: [!!python/object/apply:os.mkdir [CANARY]]", TAG),
    "a tag of a key": (GOOD + "? !!python/object/apply:os.mkdir [CANARY]\n: 1", "is not text"),
    "an instance": (GOOD + "model: {image_encoder: {_target_: os.mkdir, path: CANARY}}", "unknown key"),
    "an instance of data": (GOOD + "data: {augment: {image: {_target_: os.mkdir, path: CANARY}}}", "unknown key"),
    "an instance of everything": (GOOD + "_target_: os.mkdir\npath: CANARY", "unknown key"),
    "a function for a component": (GOOD + "model: {image_encoder: {type: 'os:mkdir'}}", "no encoder 'os:mkdir' is installed"),
    "a function for data": (GOOD + "data: {prepare: 'os:mkdir'}", "no data set 'os:mkdir' is installed"),
    "a function for a loss": (GOOD + "model: {foundation: {loss_func: '${loss_func:os.mkdir}'}}", "my.yaml:2"),
    "Hydra's settings": (GOOD + "hydra: {searchpath: ['file:///']}", "settings of Hydra's own are not read"),
    "Hydra's callbacks": ("defaults: [digits, {override hydra/callbacks: evil}]", "my.yaml"),
    "the environment": (GOOD + "output_dir: ${oc.env:SECRET}", ENVIRONMENT),
    "the environment under another name": (GOOD + "output_dir: ${oc.${train.precision}:SECRET}\ntrain: {precision: env}", ENVIRONMENT),
    "the environment, decoded": (GOOD + "output_dir: ${oc.decode:${oc.env:SECRET}}", ENVIRONMENT),
    "a file of another package": (GOOD + "tokenizer: pkg://json/tool", "no installed plugin's package"),
    "a file outside a package": (GOOD + "tokenizer: pkg://loongforge_models/digits/../../../secret", "leaves its package"),
    "a size elsewhere": ("defaults: [{image_encoder@model.image_encoder: ../../attack/elsewhere}]", "my.yaml:1"),
    "a file elsewhere": ("defaults: [../../attack/elsewhere]", "my.yaml:1"),
}


@pytest.mark.parametrize(("text", "message"), YAML.values(), ids=YAML)
def test_a_composition(place: Place, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    place.file("elsewhere.yaml", f"type: {SECRET}")
    file = place.file("configs/my.yaml", text.replace("CANARY", str(place.canary)))
    refused(capsys, ["validate", str(file)], message)


def test_a_size_of_the_users(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that a composition draws on, as plugins publish them, and as lies in the working directory."""
    place.file("configs/my.yaml", "defaults: [{image_encoder@model.image_encoder: mine}]")
    mine = place.file("configs/image_encoder/mine.yaml", f"type: !!python/object/apply:os.mkdir [{place.canary}]")
    refused(capsys, ["validate", str(place.folder / "configs" / "my.yaml")], f"{mine}:1: type: the tag")


def test_the_environment_on_the_command_line_and_where_others_use_omegaconf(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, ["validate", "digits", "output_dir=${oc.env:SECRET}"], ENVIRONMENT)
    from omegaconf import OmegaConf

    assert OmegaConf.create({"a": "${oc.env:SECRET}"}).a == SECRET, "it is as it was for whoever uses it beside us"


# --------------------------------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def maker(run: Path) -> SampleMaker:
    registry = Registry.discover()
    overrides = [*STEP, f"data.path={run / 'good.jsonl'}", f"output_dir={run / 'out'}"]
    return load_sample_maker(load_composition("digits", overrides, registry=registry), registry)


OUTSIDE, NOT_A_PATH = "leaves the data file's folder", "is no path of a file: nothing is fetched"
IMAGES = {
    "../secret.png": OUTSIDE,
    "images/../../secret.png": OUTSIDE,
    "./../../etc/passwd": OUTSIDE,
    "..": OUTSIDE,
    "http://localhost/x.png": NOT_A_PATH,
    "https://localhost/x.png": NOT_A_PATH,
    "file:///etc/passwd": NOT_A_PATH,
    "s3://bucket/x.png": NOT_A_PATH,
    "data:image/png;base64,iVBORw0KGgo=": NOT_A_PATH,
    "seven.png\0.jpg": NOT_A_PATH,
    "/etc/passwd": "/etc/passwd",
    "/dev/zero": "neither a file nor a folder",
    "pipe": "neither a file nor a folder",
    "~/x.png": "x.png",
    "$HOME/x.png": "HOME/x.png",
    "x" * 5000: "xxx",
    "": "",
    "pickle.png": "pickle.png",
}


@pytest.mark.parametrize(("image", "message"), IMAGES.items(), ids=[name[:40] or "nothing" for name in IMAGES])
def test_an_image_of_a_line(place: Place, maker: SampleMaker, image: str, message: str) -> None:
    Image.new("L", (8, 8), 100).save(place.folder / "secret.png")
    data = place.file("data/train.jsonl", json.dumps({**LINE, "images": [image]}))
    os.mkfifo(place.folder / "data" / "pipe")
    place.file("data/pickle.png", pickle.dumps(payload(place)))
    with pytest.raises(DataError) as caught:
        maker.sample(ConversationFiles([data], ["image"])[0])
    said = str(caught.value)
    assert said.startswith(f"{data}:1: ")
    assert message in said
    assert "root:" not in said, "nothing of the file is shown"


def test_within_its_folder_a_path_may_turn_and_a_link_may_lead_out(place: Place, maker: SampleMaker) -> None:
    """The link is in the folder of who asks for it, and not in what a line says; so is an absolute path of this machine."""
    Image.new("L", (8, 8), 100).save(place.folder / "seven.png")
    data = place.folder / "data"
    (data / "images").mkdir(parents=True)
    (data / "link.png").symlink_to(place.folder / "seven.png")
    shutil.copyfile(place.folder / "seven.png", data / "seven.png")
    for image in ("images/../seven.png", "link.png", str(place.folder / "seven.png")):
        (data / "train.jsonl").write_text(json.dumps({**LINE, "images": [image]}))
        assert maker.sample(ConversationFiles([data / "train.jsonl"], ["image"])[0]).items["image"]


def test_an_image_outside_ends_a_run_before_its_first_step(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    data = place.file("data/train.jsonl", json.dumps({**LINE, "images": ["../secret.png"]}))
    refused(capsys, ["train", "digits", *place.overrides(), f"data.path={data}"], f"error: {data}:1: `images`: '../secret.png' leaves")
    assert not (place.folder / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize("line", [DEEP, '{"messages":' * 50_000, '{"kind": ' + "9" * 10_000 + "}"])
def test_a_line_without_end(place: Place, line: str) -> None:
    data = place.file("data/train.jsonl", line)
    with pytest.raises(DataError, match=":1: expected a JSON object in one line"):
        ConversationFiles([data], ["image"])
