"""Write what an installed skecg consists of, as CycloneDX: every package with version, licence, dependencies.

python packaging/sbom.py ENVIRONMENT_PYTHON OUT.json
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main(python: str, out: Path) -> None:
    """Describe an environment, fill in the release, check the document, and write it."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate"]
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library", "--of", "JSON", "-o", "-", python]
    bom = json.loads(subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout)
    version = subprocess.run(
        [python, "-c", "import skecg; print(skecg.__version__)"], check=True, capture_output=True, text=True
    ).stdout.strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    complete(bom, version)
    check(bom, project["dependencies"])
    out.write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{out}: skecg {version} and {len(bom['components'])} packages")


def complete(bom: dict[str, Any], version: str) -> None:
    """Name the release, and leave out where this machine keeps its files."""
    bom["metadata"]["component"]["version"] = version
    for component in bom["components"]:
        references = component.get("externalReferences", [])
        component["externalReferences"] = [entry for entry in references if not entry["url"].startswith("file:")]


def check(bom: dict[str, Any], dependencies: list[str]) -> None:
    """Raise for a document without a dependency, or with a package of no version."""
    versions = {normal(component["name"]): component.get("version") for component in bom["components"]}
    wanted = {normal(re.split(r"[<>=!~ \[;]", dependency)[0]) for dependency in dependencies}
    if missing := sorted(name for name in wanted if not versions.get(name)):
        raise SystemExit(f"The bill of materials lacks {', '.join(missing)}, or their versions.")


def normal(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
