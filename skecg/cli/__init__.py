"""The command line: ``skecg VERB``, one file for each verb.

Importing this package imports no verb's machinery: torch and the rest come in when a verb runs, so that ``--help``
answers at once. Results go to standard output or into files, everything said along the way to standard error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from skecg._version import __version__
from skecg.cli import (
    atlas,
    cache,
    convert,
    download,
    embed,
    evaluate,
    explain,
    export,
    fit,
    info,
    models,
    plot,
    predict,
    publish,
    score,
    sign,
    verify,
)
from skecg.cli.console import (
    VerbParser,
    add_plugin_option,
    ends_when_asked,
    in_words,
    load_plugins,
    readers_may_leave,
    say,
    say_interrupted,
    short_warnings,
)
from skecg.errors import SkecgError

__all__ = ["main"]

_RESEARCH_ONLY = (
    "Research use only. Not a medical device: not for diagnosis, treatment decisions, triage or monitoring of patients."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process when not given.

    Returns
    -------
    int
        Exit code: 0 when all went well; 1 when some records failed or a verification did not pass; 2 when the command
        could not be carried out; 130 when it was interrupted; 143 when it was stopped by SIGTERM.

    Raises
    ------
    SystemExit
        As argparse does: with code 2 for arguments that make no sense, 0 after ``--help`` and ``--version``.
    """
    arguments = _parser().parse_args(argv)
    with readers_may_leave(), ends_when_asked():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Run a verb; return its exit code."""
    try:
        with short_warnings():
            load_plugins(arguments)
            return int(arguments.run(arguments))
    except (SkecgError, OSError) as error:
        say(f"error: {in_words(error)}")
        return 2
    except KeyboardInterrupt as error:
        return say_interrupted(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skecg",
        description="Self-supervised ECG encoders: from recordings to features.",
        epilog=_RESEARCH_ONLY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"skecg {__version__}\n{_RESEARCH_ONLY}")
    of_verbs: type[argparse.ArgumentParser] = VerbParser
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=of_verbs)
    for verb in (
        embed,
        fit,
        predict,
        explain,
        score,
        evaluate,
        models,
        verify,
        sign,
        convert,
        export,
        download,
        publish,
        cache,
        atlas,
        plot,
        info,
    ):
        verb.add_parser(verbs)
    add_plugin_option(verbs)
    return parser
