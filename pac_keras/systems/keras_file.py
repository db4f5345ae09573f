"""Loading `.keras` files with errors that name the file and what is wrong with it.

For the command line and export/. `keras.models.load_model` loads the same files; what it says about
broken ones is Keras's own, save for what `from_config` of a system checks.
"""

import json
import textwrap
import zipfile
import zlib
from pathlib import Path

import keras

import pac_keras
from pac_keras.systems.base import InstanceSegmenter
from pac_keras.systems.versions import is_newer

_READ = ("config.json", "metadata.json")
_LONGEST = 500  # characters of an error of Keras's, which may repeat the whole config
# What zipfile raises for archives whose bytes were changed, and Keras, h5py and the constructors
# of layers for contents that were.
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, UnicodeDecodeError, zlib.error)
_UNREADABLE = (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def load(path):
    """The system in a .keras file, as training left it, not compiled.

    Code in the file does not run: Keras's safe_mode is on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds no system of pac_keras or one without preprocessing, was
            written by a newer pac_keras, or something in it is unknown here.
        ImportError: its backbone needs a package that is missing.
    """
    path = Path(path)
    config, keras_version = _read(path)
    _check_class(path, config)
    try:
        model = keras.models.load_model(path, compile=False)
    except _UNREADABLE as error:
        reason = f"{_newer_keras(keras_version)}{_reason(error)}"
        raise ValueError(f"{path}: cannot be loaded: {reason}") from error
    if model.preprocessing is None:
        raise ValueError(
            f"{path}: knows no preprocessing, so pictures cannot be made into its input: fit it, "
            "or set model.preprocessing, and save it again"
        )
    return model


def _read(path):
    """(config.json, the version of Keras that wrote it or None) of a .keras file without damage.

    The checksums are looked at here: where memory is short, Keras reads past them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    if path.suffix != ".keras":
        raise ValueError(f"{path}: not a .keras file: expected a name that ends with .keras")
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            damaged = archive.testzip()
            members = {name: archive.read(name) for name in archive.namelist() if name in _READ}
        except _DAMAGE as error:
            raise ValueError(
                f"{path}: not a .keras file, or cut off: expected a whole zip archive, got "
                f"{path.stat().st_size} other bytes ({error})"
            ) from error
    if damaged:
        raise ValueError(f"{path}: damaged: {damaged} in it does not have its checksum")
    config, metadata = (_parsed(path, members, name) for name in _READ)
    return config, metadata.get("keras_version")


def _parsed(path, members, name):
    """The dict in a member of the archive."""
    if name not in members:
        raise ValueError(f"{path}: cannot be loaded: no {name} in it, which Keras writes")
    try:
        content = json.loads(members[name])
    except ValueError as error:
        raise ValueError(f"{path}: cannot be loaded: {name} in it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: cannot be loaded: {name} in it is {content!r}, not an object")
    return content


def _check_class(path, config):
    """Raises a ValueError unless `config` is that of a system which is known here."""
    name = str(config.get("registered_name") or config.get("class_name"))
    known = keras.saving.get_registered_object(name)
    if isinstance(known, type) and issubclass(known, InstanceSegmenter):
        return
    if known is not None or str(config.get("module")).partition(".")[0] == "keras":
        raise ValueError(f"{path}: holds a {config.get('class_name')}, not a system of pac_keras")
    arguments = config.get("config")
    version = arguments.get("pac_keras_version") if isinstance(arguments, dict) else None
    raise ValueError(
        f"{path}: cannot be loaded: it holds a {name} of the module {config.get('module')}"
        f"{f', saved by pac_keras {version},' if version else ''} which pac_keras "
        f"{pac_keras.__version__} does not know; expected a system of pac_keras"
    )


def _reason(error):
    """What Keras says, in one line; its shortest errors with what they are about."""
    about = {KeyError: "it lacks "} | dict.fromkeys((OSError, RuntimeError), "its weights: ")
    return about.get(type(error), "") + textwrap.shorten(str(error), _LONGEST, placeholder=" ...")


def _newer_keras(version):
    """Words before an error if a newer Keras wrote the file, or none can tell which did."""
    try:
        newer = version is not None and is_newer(version, keras.__version__)
    except ValueError as error:
        return f"Keras's version in it: {error}; "
    if not newer:
        return ""
    return f"Keras {version} wrote it, and {keras.__version__} is installed: "
