"""YAML files and overrides -> one tree of plain data. All the Hydra code there is.

Hydra's public plugin interfaces carry it: one `ConfigSource` does all file access and one `SearchPathPlugin` adds it. Hydra makes
both itself, without arguments, so what they read from travels in a context variable for the length of one call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize, version
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from omegaconf.resolvers.oc import env as read_environment

from loongforge_core.config.defaults import canonical_defaults, missing_default, writer_of_default
from loongforge_core.config.document import Document, read_document
from loongforge_core.config.library import Library, canonical_group, fills_slots, is_path, missing_config
from loongforge_core.config.provenance import COMMAND_LINE, Provenance
from loongforge_core.config.published import NAMED_CALLABLES
from loongforge_core.config.references import oversized_reference
from loongforge_core.errors import ConfigError, Issue, did_you_mean, near_match

__all__ = ["Composed", "compose_tree"]

SCHEME = "loongforge"
PRIMARY = "__config__"
"""What Hydra calls CONFIG, whatever folder it lies in."""
DELETION = re.compile(r"Could not delete from config\. .*?'(?P<key>[^']+)' (?P<reason>.*?)\.?", re.DOTALL)
"""What Hydra says of `~KEY` for a key that is not there, or of `~KEY=VALUE` for one of another value."""
NOTHING_TO_REPLACE = re.compile(r"Could not override '(?P<key>[^']+)'\. No match in the defaults list\..*", re.DOTALL)
"""What Hydra says of GROUP@KEY=NAME on the command line where the defaults have no such GROUP@KEY."""
ENVIRONMENT = "oc.env"
UNKNOWN_RESOLVER = re.compile(r"Unsupported interpolation type ([\w.]+)")
"""What OmegaConf says of `${NAME:ARGUMENT}` for a name that nobody has registered."""
OVERRIDE = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^@=+~]+)(?P<package>@[^=]*)?(?P<value>=.*)?", re.DOTALL)
# AssertionError and TypeError are Hydra's answer to a default that comes to something other than a name.
FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError, OSError, ValueError, AssertionError, TypeError)


@dataclass(frozen=True)
class Composed:
    """What files and overrides came to."""

    name: str
    tree: dict[str, Any]
    provenance: Provenance


@dataclass
class Reading:
    """The files of one composition, as they are read."""

    library: Library
    path: Path
    """Of the primary file."""
    folder: str = ""
    """Of the primary file inside the library."""
    is_overridden: bool = False
    """Whether the command line names files too."""
    documents: dict[str, Document] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        # A file may extend the published one of its own name, so it is never what its defaults mean.
        return self.path if name == PRIMARY else self.library.find(name, besides=self.path.resolve())

    def load(self, name: str) -> Document:
        if name not in self.documents:
            path = self.find(name)
            assert path is not None, name
            self.documents[name] = read_document(path)
        return self.documents[name]


READING: ContextVar[Reading | None] = ContextVar("loongforge_reading", default=None)


def compose_tree(config: str, overrides: Sequence[str], library: Library) -> Composed:
    """Composes `config`, a path or a name. Raises ConfigError with file and line; leaves Hydra's global state as it was."""
    path = Path(config) if is_path(config) else library.find(config)
    if path is None or not path.is_file():
        raise missing_config(config, library)
    reading = Reading(library, path, "" if is_path(config) else config.rpartition("/")[0])
    values, lines = rewrite(overrides, library)
    reading.is_overridden = len(lines) > len(values)
    provenance = Provenance(str(path))
    try:
        with hydra_loader(reading) as loader:
            defaults = loader.compute_defaults_list(PRIMARY, lines, RunMode.RUN).defaults
            for default in defaults:
                if default.config_path in reading.documents:
                    group, _, option = default.config_path.rpartition("/")
                    package = default.package or ""
                    writer = writer_of_default(group, option, reading.documents, package) or (COMMAND_LINE if reading.is_overridden else "")
                    provenance.add_package(package, writer)
                    provenance.add_document(reading.documents[default.config_path], package)
            for override in values:
                provenance.add_override(override.key_or_group, override.value())
            tree = compose(PRIMARY, lines)
            if oversized := oversized_reference(OmegaConf.to_container(tree, resolve=False)):
                key, message = oversized
                raise ConfigError(Issue(message, key, provenance.where(key)))
            plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except FAILURES as error:
        raise ConfigError(issue(error, reading, provenance)) from error
    assert isinstance(plain, dict)
    return Composed(path.stem if is_path(config) else config, {str(key): value for key, value in plain.items()}, provenance)


# ---------------------------------------------------------------------------------------------------------- Hydra's plugins


class LoongForgeSource(ConfigSource):
    """All file access of a composition."""

    @property
    def _reading(self) -> Reading:
        reading = READING.get()
        assert reading is not None
        return reading  # not kept in the source: Hydra deep-copies its sources

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_config(self, config_path: str) -> bool:
        return self._reading.find(config_path) is not None

    def is_group(self, config_path: str) -> bool:
        return self._reading.library.is_group(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return self._reading.library.options(config_path) if results_filter is not ObjectType.GROUP else []

    def load_config(self, config_path: str) -> ConfigResult:
        document = self._reading.load(config_path)
        header = self._get_header_dict(document.text)
        if config_path == PRIMARY or fills_slots(document):
            header["package"] = "_global_"  # the dots and folders of a composition's name are no keys
        tree = {key: value for key, value in document.tree.items() if key != "defaults"}
        if "hydra" in tree:
            raise ConfigError(Issue("settings of Hydra's own are not read", "hydra", document.where("hydra")))
        if "defaults" in document.tree:
            folder = self._reading.folder if config_path == PRIMARY else config_path.rpartition("/")[0]
            tree["defaults"] = canonical_defaults(document, folder)
        return ConfigResult(provider=self.provider, path=str(document.path), config=OmegaConf.create(tree), header=header)


class LoongForgeSearchPath(SearchPathPlugin):
    """Puts our source into the search path, in our own compositions only."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if READING.get() is not None:
            search_path.append(provider=SCHEME, path=f"{SCHEME}://")


@contextmanager
def hydra_loader(reading: Reading) -> Iterator[Any]:
    """Hydra's config loader for one composition; whatever Hydra a caller has set up is put back afterwards."""
    Plugins.instance().register(LoongForgeSource)
    Plugins.instance().register(LoongForgeSearchPath)
    instance, outer_version, token = GlobalHydra.instance(), version.VersionBase.instance(), READING.set(reading)
    outer, instance.hydra = instance.hydra, None
    version.VersionBase.set_instance(version.VersionBase())
    try:
        with named_callables(), initialize(config_path=None, job_name=SCHEME, version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.set_instance(instance)
        instance.hydra = outer
        version.VersionBase.set_instance(outer_version)
        READING.reset(token)


@contextmanager
def named_callables() -> Iterator[None]:
    """For as long as a composition is read, OmegaConf knows the original design's named callables, and no environment variables."""
    own = [name for name in NAMED_CALLABLES if not OmegaConf.has_resolver(name)]
    for name in own:
        OmegaConf.register_new_resolver(name, NAMED_CALLABLES[name])
    knew_environment = OmegaConf.clear_resolver(ENVIRONMENT)
    try:
        yield
    finally:
        for name in own:
            OmegaConf.clear_resolver(name)
        if knew_environment:
            OmegaConf.register_new_resolver(ENVIRONMENT, read_environment, replace=True)


# --------------------------------------------------------------------------------------------------------------- overrides


def rewrite(overrides: Sequence[str], library: Library) -> tuple[list[Override], list[str]]:
    """The overrides that set values, and all of them as Hydra takes them."""
    values: list[Override] = []
    lines: list[str] = []
    issues: list[Issue] = []
    for text in overrides:
        try:
            line, value = rewrite_one(text, library)
        except ConfigError as error:
            issues += error.issues
            continue
        lines.append(line)
        values += [value] if value else []
    if issues:
        raise ConfigError(issues)
    return values, lines


def rewrite_one(text: str, library: Library) -> tuple[str, Override | None]:
    """A value is added or changed (`++`), whether YAML has its key or not; a group is named from the root and selects a file."""
    match = OVERRIDE.fullmatch(text)
    if match is None or (match["prefix"] != "~" and match["value"] is None):
        raise ConfigError(Issue(f"got {text!r}, expected KEY=VALUE", where=COMMAND_LINE))
    if re.fullmatch(r"hydra([./].*)?", match["key"]):
        raise ConfigError(Issue("settings of Hydra's own are not read", match["key"], COMMAND_LINE))
    group, package, value = canonical_group(match["key"]), match["package"] or "", match["value"] or ""
    if library.is_group(group) and not value.startswith("={"):  # a mapping is a value even where a folder has the key's name
        line = f"{match['prefix'] or ''}{group}{package}{value}"
        parse(line, text)
        return line, None
    if package:
        raise ConfigError(Issue(f"{text!r}: no group {group!r}{did_you_mean(group, library.groups())}{library.absent}", where=COMMAND_LINE))
    line = f"{'~' if match['prefix'] == '~' else '++'}{match['key']}{value}"
    parsed = parse(line, text)
    return line, None if parsed.is_delete() else parsed


def parse(line: str, text: str) -> Override:
    try:
        parsed = OverridesParser.create().parse_override(line)
        if parsed.is_sweep_override():
            raise ConfigError(Issue(f"{text!r} has several values: write KEY=[A,B] for a list, quote it for text", where=COMMAND_LINE))
    except (HydraException, ValueError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ConfigError(Issue(f"{text!r} cannot be read: {reason}", where=COMMAND_LINE)) from error
    return parsed


# ------------------------------------------------------------------------------------------------------------------ errors


def issue(error: BaseException, reading: Reading, provenance: Provenance) -> Issue:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return unknown_default(str(error.missing_cfg_file), reading)
    if isinstance(error, RecursionError):
        return Issue("its defaults lead back to itself", where=where_defaults(reading))
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        return value_issue(cause, reading, provenance)
    if deletion := DELETION.fullmatch(str(error)):
        key, missing = deletion["key"], deletion["reason"] == "does not exist"
        reason = f"there is no such key{near_match(key, provenance.keys)}" if missing else f"its value {deletion['reason']}"
        return Issue(f"nothing to take out: {reason}", f"~{key}", COMMAND_LINE)
    if replacing := NOTHING_TO_REPLACE.fullmatch(str(error)):
        key = replacing["key"]
        return Issue(f"{reading.path.name} has no such default, and nothing to replace; to add one, write +{key}=NAME", key, COMMAND_LINE)
    if isinstance(error, AssertionError | TypeError):
        return Issue(f"a default, or an override of one, is no name: {error or 'see --debug'}", where=where_defaults(reading))
    if isinstance(error, OSError):  # a name that is too long to be a file's
        return Issue(f"a default cannot be looked up: {error.strerror}", where=where_defaults(reading))
    hint = "; to replace it, write `override GROUP@KEY: NAME`" if "more than once" in str(error) else ""
    said = " ".join(str(error).replace(f"defined in {PRIMARY}", "among its defaults").split())
    return Issue(said + hint, where=where_defaults(reading))


def where_defaults(reading: Reading) -> str:
    """Where the primary file names others; the file, where it names none."""
    primary = reading.documents.get(PRIMARY)
    return primary.where("defaults") if primary else str(reading.path)


def value_issue(cause: OmegaConfBaseException, reading: Reading, provenance: Provenance) -> Issue:
    """A value that OmegaConf cannot make out, which it may say before all that wrote are known."""
    key = re.sub(r"\[(\d+)\]", r".\1", cause.full_key or "")
    if key.startswith("defaults."):  # beyond its number, a default is named as we hand it to Hydra
        key = ".".join(key.split(".")[:2])
    message = str(cause.msg or cause).split("\n")[0]
    if resolver := UNKNOWN_RESOLVER.fullmatch(message):
        message = f"there is no ${{{resolver[1]}:...}}{did_you_mean(resolver[1], NAMED_CALLABLES)}"
        if resolver[1] == ENVIRONMENT:
            message = f"${{{ENVIRONMENT}:...}}: files read no environment variables, which may differ from process to process and hold "
            message += 'secrets; where your shell reads them, on the command line, write KEY="$NAME"'
    if isinstance(cause, GrammarParseError):
        message = f'`${{...}}` cannot be read: {message}; an argument with signs in it is quoted, such as ${{moe_freq:"[0]*1+[1]*3"}}'
    written = (document.where(key) for document in reading.documents.values() if key in document.lines)
    return Issue(message, key, provenance.where(key) if key in provenance.keys else next(written, provenance.where(key)))


def unknown_default(name: str, reading: Reading) -> Issue:
    """A name in some file's defaults, or on the command line, that no folder has."""
    group, _, option = name.rpartition("/")
    if reading.library.find(name) == reading.path.resolve():
        message = f"{name!r} is this file itself"
    else:
        message = missing_default(group, option, reading.library) + reading.library.absent
    unnamed = COMMAND_LINE if reading.is_overridden else where_defaults(reading)
    return Issue(message, where=writer_of_default(group, option, reading.documents) or unnamed)
