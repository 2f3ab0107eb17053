"""Named runs, a function each, in one file for each family: it returns a PretrainConfig.

What a recipe is for, and where it departs from what was published, stands in its docstring or its file's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from skecg.encoders.plugins import load_installed_plugins, load_plugin, needed_plugin
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig

__all__ = ["RECIPES", "all_recipes", "describe_recipe", "load_recipe", "register_recipe"]

# The module of each family of runs, and the runs in the order in which they are listed.
_FAMILIES = {
    "skecg": ("skecg_default", "skecg_dual", "skecg_temporal", "skecg_multiscale"),
    "weimann": ("weimann_vit_xs", "weimann_vit_s", "weimann_vit_b"),
    "kim": ("kim_leadwise_b_random", "kim_leadwise_b_block"),
    "mae": ("mae_time", "mae_leads", "mae_both"),
    "beat_ssl": (
        "beat_ssl_hard_none_1",
        "beat_ssl_hard_hard_1",
        "beat_ssl_hard_soft_1_1",
        "beat_ssl_hard_soft_1_50",
        "beat_ssl_hard_soft_2_1",
        "beat_ssl_soft_1_none_1",
        "beat_ssl_soft_1_none_50",
        "beat_ssl_soft_1_hard_1",
        "beat_ssl_soft_1_hard_50",
        "beat_ssl_soft_1_soft_1_1",
        "beat_ssl_soft_1_soft_1_50",
        "beat_ssl_soft_2_none_1",
        "beat_ssl_soft_2_hard_1",
        "beat_ssl_soft_2_soft_2_1",
    ),
}
_MODULES = {name: module for module, names in _FAMILIES.items() for name in names} | {"tiny": "skecg"}

#: Names of the recipes that come with the trainer.
RECIPES: tuple[str, ...] = tuple(_MODULES)

# Those of plug-ins, by name.
_REGISTERED: dict[str, Callable[[], PretrainConfig]] = {}


def register_recipe(recipe: Callable[[], PretrainConfig]) -> Callable[[], PretrainConfig]:
    """Make a recipe known, by the name of its function; a decorator.

    Parameters
    ----------
    recipe : callable
        Returns a :class:`pretraining.config.PretrainConfig` of that name. The first line of its docstring describes it.

    Raises
    ------
    ParameterError
        When another recipe has that name.
    """
    name = recipe.__name__
    known = _REGISTERED.get(name)
    if name in RECIPES or (known is not None and known.__module__ != recipe.__module__):
        raise ParameterError(f"Got a recipe {name!r} of {recipe.__module__}, expected a name that no other has.")
    _REGISTERED[name] = recipe
    return recipe


def all_recipes() -> tuple[str, ...]:
    """Return the names of all recipes, those of plug-ins that are loaded last."""
    return (*RECIPES, *_REGISTERED)


def load_recipe(name: str) -> PretrainConfig:
    """Return the configuration of a recipe.

    Parameters
    ----------
    name : str
        One of :func:`all_recipes`; or the path of a Python file that registers a single one.

    Returns
    -------
    PretrainConfig

    Raises
    ------
    ParameterError
        For a name that is none of them, with the nearest one; for a file that registers none, or several.
    """
    if name.endswith(".py"):
        return _REGISTERED[_recipe_of(name)]()
    if name not in all_recipes():
        load_installed_plugins()
    if name not in all_recipes():
        close = difflib.get_close_matches(name, all_recipes(), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(all_recipes())}."
        raise ParameterError(f"Got recipe {name!r}, expected the name of a recipe. {hint}{needed_plugin()}")
    if name in _REGISTERED:
        return _REGISTERED[name]()
    module = import_module(f"{__name__}.{_MODULES[name]}")
    config: PretrainConfig = module.row_config(name) if _MODULES[name] == "beat_ssl" else getattr(module, name)()
    return config


def _recipe_of(path: str) -> str:
    """Return the name of the one recipe that a file registers."""
    module = load_plugin(path).__name__
    found = [name for name, recipe in _REGISTERED.items() if recipe.__module__ == module]
    if len(found) != 1:
        what = f"registers {', '.join(found)}" if found else "registers no recipe"
        raise ParameterError(
            f"Got the recipe {path!r}, which {what}, expected one function under @register_recipe. Of several, name "
            f"one with --recipe, and the file with --plugin {path}."
        )
    return found[0]


def describe_recipe(name: str) -> str:
    """Return the first line of a recipe's docstring."""
    if name in _REGISTERED:
        return (_REGISTERED[name].__doc__ or "").partition("\n")[0]
    module = import_module(f"{__name__}.{_MODULES[name]}")
    if _MODULES[name] == "beat_ssl":
        return str(module.describe(name))
    return (getattr(module, name).__doc__ or "").partition("\n")[0]
