"""Which version wrote a file, and whether the installed one may read it."""

import re

import pac_keras


def check_version(system, version):
    """Raises a ValueError if a newer pac_keras saved a model: it may compute something else.

    Args:
        system: name of its class.
        version: of the pac_keras that saved it, "0.1.0"; None in files from before it was kept.
    """
    installed = pac_keras.__version__
    if version is not None and is_newer(version, installed):
        raise ValueError(
            f"this {system} was saved by pac_keras {version}, and {installed} is installed: to "
            f"load it, install pac_keras {version} or newer"
        )


def is_newer(version, other):
    """Whether `version`, as "0.1.0", is later than `other`; what follows the numbers is ignored."""
    return _numbers(version) > _numbers(other)


def _numbers(version):
    found = re.match(r"\d+(\.\d+)*", str(version))
    if not found:
        raise ValueError(f"expected a version as 0.1.0, got {version!r}")
    return tuple(int(part) for part in found[0].split("."))
