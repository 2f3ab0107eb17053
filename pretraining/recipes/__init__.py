"""Named runs, one small file each: a function ``config()`` that gives a PretrainConfig.

What a recipe is for, and where it departs from what was published, stands in its own docstring.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from skecg.errors import ParameterError

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig

__all__ = ["RECIPES", "describe_recipe", "load_recipe"]

#: Names of all recipes.
RECIPES: tuple[str, ...] = (
    "skecg_default",
    "skecg_multiscale",
    "weimann_vit_xs",
    "weimann_vit_s",
    "weimann_vit_b",
    "kim_leadwise_b_random",
    "kim_leadwise_b_block",
    "mae_time",
    "mae_leads",
    "mae_both",
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
    "tiny",
)

# The rows of one table, which are one file.
_BEAT_SSL = "beat_ssl_"


def load_recipe(name: str) -> PretrainConfig:
    """Give the configuration of a recipe.

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
    config: PretrainConfig
    if name.startswith(_BEAT_SSL):
        config = import_module(f"{__name__}.beat_ssl").row_config(name)
    else:
        config = import_module(f"{__name__}.{name}").config()
    return config


def describe_recipe(name: str) -> str:
    """Give the first line of a recipe's docstring."""
    if name.startswith(_BEAT_SSL):
        return str(import_module(f"{__name__}.beat_ssl").describe(name))
    return (import_module(f"{__name__}.{name}").__doc__ or "").partition("\n")[0]
