"""Named runs, a function each, in one file for each family: it returns a PretrainConfig.

What a recipe is for, and where it departs from what was published, stands in its docstring or its file's.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from skecg.errors import ParameterError

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig

__all__ = ["RECIPES", "describe_recipe", "load_recipe"]

# The module of each family of runs, and the runs in the order in which they are listed.
_FAMILIES = {
    "skecg": ("skecg_default", "skecg_temporal", "skecg_multiscale"),
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

#: Names of all recipes.
RECIPES: tuple[str, ...] = tuple(_MODULES)


def load_recipe(name: str) -> PretrainConfig:
    """Return the configuration of a recipe.

    Parameters
    ----------
    name : str
        One of :data:`RECIPES`.

    Returns
    -------
    PretrainConfig

    Raises
    ------
    ParameterError
        For a name that is none of them, with the nearest one.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(RECIPES)}."
        raise ParameterError(f"Got recipe {name!r}, expected the name of a recipe. {hint}")
    module = import_module(f"{__name__}.{_MODULES[name]}")
    config: PretrainConfig = module.row_config(name) if _MODULES[name] == "beat_ssl" else getattr(module, name)()
    return config


def describe_recipe(name: str) -> str:
    """Return the first line of a recipe's docstring."""
    module = import_module(f"{__name__}.{_MODULES[name]}")
    if _MODULES[name] == "beat_ssl":
        return str(module.describe(name))
    return (getattr(module, name).__doc__ or "").partition("\n")[0]
