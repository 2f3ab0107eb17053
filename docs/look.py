"""Look at every built page in Chromium, on a wide and on a phone's screen, in light and in dark; print what is wrong.

``make look`` runs it. ``python docs/look.py --pictures FOLDER [PAGE ...]`` keeps what was seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "docs" / "_build" / "html"
SCREENS = {"wide": (1400, 900), "phone": (360, 740)}

# What a reader would stumble over: a page wider than the screen, text that ends behind its edge where nothing scrolls,
# a picture that is not there, letters too faint for their ground, a section's sidebar without a section.
FAULTS = """
const faults = [], width = document.documentElement.clientWidth;
if (document.scrollingElement.scrollWidth > width) faults.push(`is ${document.scrollingElement.scrollWidth} wide`);
const shown = element => element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
for (const image of document.querySelectorAll("article img"))
  if (image.complete && !image.naturalWidth) faults.push(`lacks the picture ${image.getAttribute("src")}`);
const scrolls = element => {
  for (; element && element !== document.body; element = element.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(element).overflowX)) return true;
  return false;
};
const right = element => {
  const words = document.createRange();
  words.selectNodeContents(element);
  return words.getBoundingClientRect().right;
};
for (const element of document.querySelectorAll("article :is(p, li, dt, pre, h1, h2, h3)"))
  if (shown(element) && right(element) > width && !scrolls(element))
    faults.push(`cuts off ${element.textContent.trim().slice(0, 40)}`);
const left = document.querySelector(".bd-sidebar-primary");
if (left && shown(left) && left.getBoundingClientRect().width && !left.querySelector("a[href]"))
  faults.push("has an empty sidebar");
const channels = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => {
  for (; element; element = element.parentElement) {
    const [r, g, b, a = 1] = channels(getComputedStyle(element).backgroundColor);
    if (a > 0.9) return [r, g, b];
  }
  return [255, 255, 255];
};
const faint = new Map();
for (const element of document.querySelectorAll("article *")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (!own || !shown(element)) continue;
  const [one, two] = [light(channels(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (two + 0.05);
  const words = element.textContent.trim().slice(0, 20);
  if (ratio < 4.5) faint.set(element.className || element.tagName, `${ratio.toFixed(1)} ${words}`);
}
for (const [kind, words] of faint) faults.push(`is faint in ${kind}: ${words}`);
return faults;
"""


def main() -> int:
    """Return how many faults there are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", help="some pages only: speed api/index")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep what was seen")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from browser import open_browser

    names = given.pages or sorted(
        str(page.relative_to(BUILT).with_suffix("")) for page in BUILT.rglob("*.html") if "_static" not in page.parts
    )
    n_faults = 0
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as browser:
        for screen, (width, height) in SCREENS.items():
            browser.size(width, height)
            for scheme in ("light", "dark"):
                browser.scheme(scheme)
                for name in names:
                    browser.open(BUILT / f"{name}.html")
                    for fault in browser.run(FAULTS):
                        n_faults += 1
                        print(f"{name} ({screen}, {scheme}) {fault}")
                    if given.pictures:
                        file = given.pictures / f"{name.replace('/', '.')}-{screen}-{scheme}.png"
                        file.parent.mkdir(parents=True, exist_ok=True)
                        browser.picture(file)
    print(f"{len(names)} pages, {len(SCREENS)} screens, 2 schemes: {n_faults} faults")
    return n_faults


if __name__ == "__main__":
    sys.exit(main() != 0)
