"""Why a stranger's module could not be used, in one line, and what to install where that mends it."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from importlib import metadata

from loongforge_core.registry.distributions import package_of

__all__ = ["one_line", "reason_of"]

LONGEST = 300
"""Characters of a reason: what an exception quotes may be a whole file."""

REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def reason_of(error: BaseException, distribution: str) -> str:
    """The error's type and words; of a package that is missing, also how to get it."""
    said = one_line(error)
    kind = type(error).__name__
    return f"{kind}: {said}{remedy(error, distribution)}" if said else kind


def one_line(value: object) -> str:
    """What `str` makes of it, which a stranger's class may have spoilt, without line breaks and not without end."""
    try:
        text = " ".join(str(value).split())
    except Exception as error:
        return f"(its own words raise {type(error).__name__})"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def remedy(error: BaseException, distribution: str) -> str:
    if not isinstance(error, ModuleNotFoundError) or not isinstance(error.name, str):
        return ""
    package = error.name.partition(".")[0]
    if package in own_packages(distribution):
        return f"; it is a part of {distribution} itself: pip install --force-reinstall {distribution}"
    if package != error.name and importlib.util.find_spec(package) is not None:
        return f"; {package} is installed, but without this part: another version of it may be needed"
    wanted = list(missing_requirements(distribution)) or [package]
    return f"; install what it needs: pip install {' '.join(map(shlex.quote, wanted))}"


def own_packages(distribution: str) -> set[str]:
    try:
        return {package_of(entry_point) for entry_point in metadata.distribution(distribution).entry_points}
    except Exception:  # it is not installed, or its metadata is as broken as its module
        return set()


def missing_requirements(distribution: str) -> Iterator[str]:
    """What its metadata asks for in any case and is not there: `opencv-python`, where the module is called `cv2`."""
    try:
        requirements = metadata.requires(distribution) or []
    except Exception:
        return
    for requirement in requirements:
        name = REQUIREMENT.match(requirement)
        if name and ";" not in requirement and not is_installed(name[0]):
            yield requirement.replace(" ", "")


def is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
