"""What is published is wheels: built, installed into a clean environment, and used from outside the checkout.

The environment is made once. Of other people's it has pip and what the wheels ask for, as links to where the tests have it, which pip has
installed for the same requirements (`make install`): a second copy would be 1.6 GB and half a minute.
"""

from __future__ import annotations

import email
import json
import os
import shlex
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
SOURCES = {
    "loongforge_core": CHECKOUT,
    **{
        name: CHECKOUT / "plugins" / name
        for name in (
            *("loongforge_vit", "loongforge_audio", "loongforge_projectors", "loongforge_llm", "loongforge_hf", "loongforge_models"),
        )
    },
    "loongforge_sensor": CHECKOUT / "examples/loongforge_sensor",
}
TWO_STEPS = ("train.steps=2", "train.global_batch_size=4", "train.micro_batch_size=2", "data.eval_path=null", "train.export_hf=false")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A virtual environment, and a folder outside the checkout to work in."""

    environment: Path
    folder: Path
    wheels: Mapping[str, Path]

    def run(self, program: str, *args: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A program of the environment, as in a new shell. Its exit status must be `status`."""
        # One thread, because other tests may run beside this one.
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        result = subprocess.run(
            [self.environment / "bin" / program, *args],
            cwd=self.folder,
            env={**ours, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert result.returncode == status, f"{program} {args}: exit status {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def pip(self, *args: str | Path) -> None:
        self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *args)

    def metrics(self, name: str) -> list[dict[str, float]]:
        """Of a run."""
        return [json.loads(line) for line in (self.folder / f"runs/{name}/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """One of each distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*command, *SOURCES.values()], check=True)
    built = {path.name.partition("-")[0]: path for path in folder.iterdir()}
    assert built.keys() == SOURCES.keys()
    return built


@pytest.fixture(scope="module")
def installed(wheels: Mapping[str, Path]) -> Iterator[Installed]:
    with TemporaryDirectory() as name:
        environment, folder = Path(name) / "environment", Path(name) / "elsewhere"
        folder.mkdir()
        venv.create(environment)
        link_third_parties(environment, wheels.values())
        installed = Installed(environment, folder, wheels)
        installed.pip("install", "--no-index", *wheels.values())
        yield installed


def link_third_parties(environment: Path, wheels: Iterable[Path]) -> None:
    """Into `environment` goes pip, what the wheels require, and what that requires, of other people's distributions that the tests have."""
    (site,) = environment.glob("lib/python*/site-packages")
    ours = {canonicalize_name(name) for name in SOURCES}
    wanted = [Requirement("pip"), *(requirement for wheel in wheels for requirement in requirements_of(wheel))]
    linked: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key[0] in ours or key in linked:
            continue
        linked.add(key)
        distribution = metadata.distribution(requirement.name)
        wanted += applying(distribution.requires or (), requirement.extras)
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(str(distribution.locate_file(name)))


def requirements_of(wheel: Path) -> list[Requirement]:
    (name,) = (name for name in files(wheel) if name.endswith(".dist-info/METADATA"))
    described = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    return applying(described.get_all("Requires-Dist", ()), ())


def applying(requirements: Iterable[str], extras: Iterable[str]) -> list[Requirement]:
    """Those that hold on this machine, with these extras."""
    parsed = map(Requirement, requirements)
    return [each for each in parsed if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))]


def files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def tracked(source: Path) -> Sequence[str]:
    """Files of a package that are not Python, relative to the source folder."""
    package = source / source.name if source != CHECKOUT else source / "loongforge_core"
    found = (path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return sorted(str(path.relative_to(source)) for path in found)


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_has_everything_of_its_package(name: str, wheels: Mapping[str, Path]) -> None:
    data = tracked(SOURCES[name])
    assert set(data) <= files(wheels[name])
    assert not [file for file in files(wheels[name]) if "tests/" in file and "/templates/" not in file]


def test_what_the_commands_need_is_among_it(wheels: Mapping[str, Path]) -> None:
    assert "loongforge_core/py.typed" in files(wheels["loongforge_core"])
    assert "loongforge_vit/configs/image_encoder/siglip_so400m_384.yaml" in files(wheels["loongforge_vit"])
    assert {"loongforge_models/configs/digits.yaml", "loongforge_models/digits/tokenizer/tokenizer.json"} <= files(
        wheels["loongforge_models"]
    )


def test_nothing_of_the_checkout_is_used(installed: Installed) -> None:
    code = f"import {', '.join(SOURCES)}; print(*({', '.join(f'{name}.__file__' for name in SOURCES)},), sep='\\n')"
    places = installed.run("python", "-c", code).stdout.splitlines()
    assert len(places) == len(SOURCES) and all(Path(place).is_relative_to(installed.environment) for place in places), places
    installed.pip("check")


def test_list_names_every_component_with_its_distribution_and_version(installed: Installed) -> None:
    listed = json.loads(installed.run("loongforge", "list", "--json").stdout)
    found = {(entry["kind"], entry["name"]): (entry["distribution"], entry["version"]) for entry in listed}
    versions = {name: wheel.name.split("-")[1] for name, wheel in installed.wheels.items()}
    expected = {
        ("encoder", "siglip"): "loongforge_vit",
        ("encoder", "qwen2_audio"): "loongforge_audio",
        ("encoder", "hf_encoder"): "loongforge_hf",
        ("encoder", "sensor"): "loongforge_sensor",
        ("projector", "mlp"): "loongforge_projectors",
        ("backbone", "qwen2"): "loongforge_llm",
        ("backbone", "llama"): "loongforge_llm",
        ("recipe", "llava"): "loongforge_models",
        ("recipe", "default"): "loongforge_core",
        ("dataset", "digits"): "loongforge_models",
        ("composition", "digits"): "loongforge_models",
        ("composition", "tones"): "loongforge_models",
        ("composition", "sensor_demo"): "loongforge_sensor",
    }
    assert {key: found.get(key) for key in expected} == {key: (name, versions[name]) for key, name in expected.items()}
    assert {distribution for distribution, _ in found.values()} == SOURCES.keys()


@pytest.mark.parametrize("composition", ["digits", "digits_and_tones", "sensor_demo"])
def test_a_composition_is_valid(composition: str, installed: Installed) -> None:
    assert installed.run("loongforge", "validate", composition).stdout.startswith(composition)


TRAIN_BOTH = """
import sys
from loongforge_core.cli.main import main
sys.exit(max(main(["train", name, *sys.argv[1:], f"output_dir=runs/{name}"]) for name in ("digits", "sensor_demo")))
"""


def test_compositions_train(installed: Installed) -> None:
    """In one process, which loads torch and Megatron-Core once; `loongforge train` is what an author calls below."""
    installed.run("python", "-c", TRAIN_BOTH, *TWO_STEPS)
    for composition in ("digits", "sensor_demo"):
        first, second = installed.metrics(composition)
        assert (first["step"], second["step"]) == (1, 2)
        assert 1 < first["loss"] < 20 and first["grad_norm"] > 0
        assert (installed.folder / f"runs/{composition}/config.yaml").exists()


def test_a_plugin_installs_from_its_folder_once_the_core_is_there(installed: Installed) -> None:
    installed.pip("uninstall", "--yes", "loongforge_vit")
    assert "siglip" not in installed.run("loongforge", "list").stdout
    installed.pip("install", CHECKOUT / "plugins/loongforge_vit")
    assert "siglip" in installed.run("loongforge", "list").stdout


def test_a_missing_plugin_is_named_by_what_it_would_bring(installed: Installed) -> None:
    installed.pip("uninstall", "--yes", "loongforge_projectors")
    try:
        said = installed.run("loongforge", "validate", "sensor_demo", status=2).stderr
    finally:
        installed.pip("install", "--no-deps", "--no-index", installed.wheels["loongforge_projectors"])
    assert "sensor_demo.yaml:" in said and "model.waveform_projector" in said and "'mlp'" in said, said
    assert "Traceback" not in said


def test_a_new_encoder_trains_and_passes_its_tests(installed: Installed) -> None:
    """From nothing to a falling loss as an author does it, with the commands that `new-plugin` says."""
    said = installed.run("loongforge", "new-plugin", "my_vit", "--kind", "encoder").stdout.splitlines()
    pip, train, test = (shlex.split(line) for line in said[-3:])
    installed.pip(*pip[1:])
    installed.run(*train)
    losses = [line["loss"] for line in installed.metrics("my_vit_demo")]
    assert losses[-1] < 0.1 * losses[0]
    installed.run(*test)
