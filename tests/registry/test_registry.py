"""Looking components up, loading their parts, and what is said when that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toy_plugin.config import EyeConfig
from toy_plugin.processor import EyeProcessor
from toy_plugin.registered import toy_registry

from loongforge_core.component import ComponentSpec, DatasetSpec
from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry


def spec(**changes: object) -> ComponentSpec:
    fields = {"kind": "encoder", "name": "nose", "summary": "smells", "modalities": ("smell",), "config": "toy_plugin.config:EyeConfig"}
    return ComponentSpec(**{**fields, **changes})  # type: ignore[arg-type]


def test_parts_are_loaded_by_name(registry: Registry) -> None:
    eye = registry.component("encoder", "eye")
    assert registry.load(eye, "config") is EyeConfig
    assert registry.load(eye, "processor") is EyeProcessor


def test_an_empty_registry_has_cores_own_recipe() -> None:
    registry = Registry()
    config = registry.load(registry.component("recipe", "default"), "config")()
    assert config.markup("smell").placeholder == "<smell>"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("encoder", "eyes", "no encoder 'eyes' is installed; did you mean 'eye'?"),
        ("encoder", "bridge", "'bridge' is a projector, not an encoder"),
        ("backbone", "eye", "'eye' is an encoder, not a backbone"),
    ],
)
def test_a_miss_names_the_nearest_or_the_right_kind(registry: Registry, kind: str, name: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.component(kind, name)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_a_name_published_twice_is_refused_when_selected(registry: Registry) -> None:
    registry.register(spec(name="eye"), distribution="other_plugin", version="3")
    with pytest.raises(PluginError, match=r"encoder 'eye' is published by toy_plugin 1\.0 and other_plugin 3"):
        registry.component("encoder", "eye")
    assert registry.component("encoder", "ear")


def test_registering_the_same_again_changes_nothing() -> None:
    registry = Registry()
    for _ in range(2):
        registry.register(spec())
    assert registry.component("encoder", "nose") == spec()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "toy_plugin.config:NoSuchConfig"}, "could not be imported: AttributeError"),
        ({"config": "no_such_package.config:Config"}, "could not be imported: ModuleNotFoundError"),
        ({"config": "toy_plugin.config:Rope"}, "expected a subclass of EncoderConfig"),
        ({"config": "toy_plugin.config:BridgeConfig"}, "expected a subclass of EncoderConfig"),
        ({"config": "toy_plugin.config:GreedyConfig"}, "declares freeze"),
        ({"config": "loongforge_core.component:EncoderConfig"}, "does not implement feature_size, token_grid"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_with_its_distribution(changes: dict[str, object], message: str) -> None:
    registry = Registry()
    registry.register(spec(**changes), distribution="nose_plugin", version="2")
    with pytest.raises(PluginError, match=message) as caught:
        registry.load(registry.component("encoder", "nose"), "config")
    assert "nose_plugin 2" in str(caught.value)
    assert (caught.value.__cause__ is not None) == ("imported" in message)


def test_a_part_that_a_component_lacks_is_said(registry: Registry) -> None:
    with pytest.raises(PluginError, match="projector 'bridge' has no processor"):
        registry.load(registry.component("projector", "bridge"), "processor")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "'a b' is no name"),
        ({"config": "nonsense"}, "config of 'nose' is 'nonsense', expected 'package.module:attribute'"),
        ({"kind": "nose"}, "of kind 'nose', expected one of encoder"),
        ({"api_version": 2}, "API version 2, this loongforge_core supports 1"),
        ({"modalities": ()}, "encoder 'nose' names no modality"),
    ],
)
def test_nonsense_is_not_registered(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Registry().register(spec(**changes))


def test_a_processor_is_a_processor() -> None:
    registry = Registry()
    registry.register(spec(processor="toy_plugin.config:EyeConfig"))
    with pytest.raises(PluginError, match="expected a subclass of Processor"):
        registry.load(registry.component("encoder", "nose"), "processor")


def test_data_sets_are_looked_up_like_components(registry: Registry) -> None:
    assert registry.dataset("pictures").summary == "a few pictures"
    assert registry.load_dataset(registry.dataset("pictures"))(7) == 7
    with pytest.raises(PluginError, match="no data set 'picture' is installed; did you mean 'pictures'"):
        registry.dataset("picture")
    registry.register(DatasetSpec(name="pictures", summary="", prepare="a.b:c"), distribution="other")
    with pytest.raises(PluginError, match="published by"):
        registry.dataset("pictures")


def test_config_paths_are_packages_or_folders(registry: Registry, tmp_path: Path) -> None:
    registry.register_config_path(tmp_path)
    assert tmp_path in [folder.path for folder in registry.config_folders]
    for wrong in ("no_such_package", "toy_plugin.plugin"):
        with pytest.raises(PluginError, match=f"{wrong}', which is not a package"):
            registry.register_config_path(wrong)
    with pytest.raises(PluginError, match="nowhere is not a folder that holds YAML"):
        registry.register_config_path(tmp_path / "nowhere")


def test_the_fingerprint_tells_versions_and_definitions_apart(registry: Registry) -> None:
    assert registry.fingerprint() == toy_registry().fingerprint()
    before = registry.fingerprint()
    registry.register(spec())
    assert registry.fingerprint() != before
    other = Registry()
    other.register(spec(summary="smells a lot"))
    mine = Registry()
    mine.register(spec())
    assert mine.fingerprint() != other.fingerprint()


def test_importing_core_and_its_registry_imports_no_torch() -> None:
    program = (
        "import sys, loongforge_core\n"
        "from loongforge_core import Registry, ComponentSpec, load_composition\n"
        "Registry.discover()\n"
        "print(sorted({'torch', 'megatron', 'numpy', 'hydra', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_configs_and_processors_of_all_installed_components_import_no_torch() -> None:
    """`validate` and the data workers use them; import-linter checks only the modules that pyproject.toml lists."""
    program = (
        "import sys\n"
        "from loongforge_core import Registry\n"
        "registry, seen = Registry.discover(), []\n"
        "for published in registry.components():\n"
        "    for part in ('config', *(('processor',) if published.spec.processor else ())):\n"
        "        registry.load(published.spec, part)\n"
        "        seen.append(part)\n"
        "        if heavy := {'torch', 'megatron.core', 'transformers'} & set(sys.modules):\n"
        "            sys.exit(f'{part} of {published.spec.name} imports {sorted(heavy)}')\n"
        "print(len(seen))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
