"""Lay a release's pages into the published site, and list the site's versions for the switcher of every page.

``python packaging/documentation.py SITE BUILT VERSION``: SITE/VERSION and the first level of SITE become BUILT;
SITE/_static/switcher.json, which the pages of all versions read, names every version that lies in SITE.
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
    """Replace the newest pages, keep those of the releases before."""
    if not VERSION.fullmatch(version):
        raise SystemExit(f"Got the version {version!r}, expected one such as 0.1.0.")
    for old in site.iterdir():
        if old.name == version or not (old.name.startswith(".") or VERSION.fullmatch(old.name)):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(built, site / version)
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
