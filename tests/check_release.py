"""Whether version, changelog, citation and tag speak of one release.

    python tests/check_release.py [TAG]

Prints what disagrees, and ends with exit code 1 where anything does. Needs Python alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def disagreements(root: Path, tag: str | None) -> list[str]:
    """What stands between this tree and a release, in words."""
    version = _found(root / "fishermask_fast" / "version.py", r'__version__ = "(.+)"')
    cited = _found(root / "CITATION.cff", r"^version: (.+)$")
    cited_date = _found(root / "CITATION.cff", r'^date-released: "(.+)"$')
    section = re.search(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = section.group(1) if section else "nothing"
    wanted = re.fullmatch(r"(\S+) - (\d{4}-\d{2}-\d{2})", newest)
    found = []
    if wanted is None or wanted.group(1) != version:
        found.append(
            f'CHANGELOG.md must begin with "## {version} - YYYY-MM-DD"; '
            f'it begins with "## {newest}"'
        )
    if cited != version:
        found.append(f"CITATION.cff must have version: {version}; it has {cited}")
    if wanted is not None and cited_date != wanted.group(2):
        found.append(
            f'CITATION.cff must have date-released: "{wanted.group(2)}", as the changelog; '
            f"it has {cited_date}"
        )
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag must be v{version}; got {tag}")
    return found


def _found(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text(), re.MULTILINE)
    return "none" if match is None else match.group(1)


def main() -> int:
    found = disagreements(ROOT, sys.argv[1] if len(sys.argv) > 1 else None)
    print("\n".join(found) or "version, changelog, citation and tag agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
