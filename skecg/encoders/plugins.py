"""Plug-ins: modules that register architectures, objectives, masks, corpora or recipes when they are imported.

A module is named on the command line (``--plugin``), imported by hand, or installed with an entry point of the group
``skecg.plugins``. Those that are installed are imported when a name is met that nothing here knows, and not before.
Nothing that lies in a weights folder is ever imported: a folder only names the plug-in that it needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from skecg.errors import ParameterError, SkecgError

__all__ = ["ENTRY_POINTS", "load_installed_plugins", "load_plugin", "needed_plugin"]

#: Group of the entry points of installed plug-ins.
ENTRY_POINTS = "skecg.plugins"


def load_plugin(name: str) -> ModuleType:
    """Import a plug-in.

    Parameters
    ----------
    name : str
        A module (``"my_package.encoder"``), or the path of a Python file (``"encoder.py"``).

    Returns
    -------
    module

    Raises
    ------
    ParameterError
        When there is no such module or file, it cannot be imported, or another of its name is loaded.
    """
    try:
        return _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise ParameterError(
                f"Got the plug-in {name!r}, expected a module that can be imported, or the path of a .py file."
            ) from error
        raise ParameterError(f"The plug-in {name!r} needs {error.name!r}, which is not installed.") from error
    except SkecgError:
        raise
    except Exception as error:  # whatever somebody else's module raises
        raise ParameterError(f"The plug-in {name!r} cannot be imported ({type(error).__name__}: {error}).") from error


def _load_file(path: Path) -> ModuleType:
    """Import a file as the module of its name, so that what it defines can be found by that again."""
    if not path.is_file():
        raise ParameterError(f"Got the plug-in {str(path)!r}, which is no file.")
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if Path(getattr(loaded, "__file__", None) or "").resolve() == path.resolve():
            return loaded
        raise ParameterError(f"Got {str(path)!r}, but a module named {path.stem!r} is loaded already. Rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    # Known before it runs: dataclasses and pickles look their module up by its name.
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # A module that failed half way would pass for imported the next time.
        del sys.modules[path.stem]
        raise
    return module


@cache
def load_installed_plugins() -> Sequence[str]:
    """Import the plug-ins that are installed, once; return why others could not be, a sentence each."""
    troubles = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # whatever somebody else's module raises must not keep the others out
            troubles.append(f"The installed plug-in {point.name!r} could not be loaded ({error}).")
    return tuple(troubles)


def needed_plugin(provider: object = None) -> str:
    """Return what to do about a name that nobody has registered, beginning with a space."""
    named = f"the plug-in {provider!r}" if isinstance(provider, str) and provider else "a plug-in"
    words = [f"If it is from {named}, install that, or name it with --plugin MODULE (import it, in Python)."]
    return " " + " ".join([*words, *load_installed_plugins()])
