"""Lay a release's pages into the published site, and list the site's versions for the switcher of every page.

``python packaging/documentation.py SITE BUILT VERSION``: SITE/VERSION becomes BUILT, and so does the first level of
SITE where no later version lies there; SITE/_static/switcher.json, which the pages of all versions read, names each.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ADDRESS = "https://skecg.github.io/skecg/"
VERSION = re.compile(r"\d+(?:\.\d+)+")


def lay(site: Path, built: Path, version: str) -> None:
    """Replace a version's pages and, unless it mends an older release, the newest ones; keep those of the others."""
    if not VERSION.fullmatch(version):
        raise SystemExit(f"Got the version {version!r}, expected one such as 0.1.0.")
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(built, site / version)
    if versions(site)[0]["version"] == version:
        for old in site.iterdir():
            if not (old.name.startswith(".") or VERSION.fullmatch(old.name)):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(built, site, dirs_exist_ok=True)
    (site / ".nojekyll").touch()  # or folders that begin with an underscore are left out
    (site / "_static" / "switcher.json").write_text(json.dumps(versions(site), indent=2) + "\n", encoding="utf-8")


def versions(site: Path) -> list[dict[str, object]]:
    """Return the entries of the switcher, the newest first."""
    names = [folder.name for folder in site.iterdir() if VERSION.fullmatch(folder.name)]
    newest, *others = sorted(names, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    first = {"name": f"{newest} (newest)", "version": newest, "url": ADDRESS, "preferred": True}
    return [first, *({"version": name, "url": f"{ADDRESS}{name}/"} for name in others)]


if __name__ == "__main__":
    lay(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
