"""Whether version, changelog, citation and tag speak of one release.

    python tests/check_release.py [TAG]

Prints what disagrees, and ends with exit code 1 where anything does: a date that is none, or yet
to come, and for a TAG a placeholder that stands for the project's owner. Needs Python alone.
"""

from __future__ import annotations

import re
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER"


def disagreements(root: Path, tag: str | None) -> list[str]:
    """What stands between this tree and a release, in words."""
    version = _found(root / "fishermask_fast" / "version.py", r'__version__ = "(.+)"')
    found = _of_changelog(root, version) + _of_citation(root, version)
    if tag is not None:
        if tag != f"v{version}":
            found.append(f"the tag must be v{version}; got {tag}")
        found += [
            f"{name} still has {PLACEHOLDER} where the account that publishes the project belongs"
            for name in placeholders(root)
        ]
    return found


def placeholders(root: Path) -> list[str]:
    """The files that name no owner yet."""
    files = [*root.glob("*.toml"), *root.glob("*.yml"), *root.glob("*.cff"), *root.glob("*.md")]
    files += (root / ".github").rglob("*.yml")
    return sorted(
        str(path.relative_to(root))
        for path in files
        if re.search(rf"\b{PLACEHOLDER}\b", path.read_text(encoding="utf-8"))
    )


def _sections(root: Path) -> list[str]:
    """The headings of the changelog's versions, newest first."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.findall(r"^## (.+)$", text, re.MULTILINE) or ["nothing"]


def _of_changelog(root: Path, version: str) -> list[str]:
    sections = _sections(root)
    if not sections[0].startswith(f"{version} - "):
        return [
            f'CHANGELOG.md must begin with "## {version} - YYYY-MM-DD"; '
            f'it begins with "## {sections[0]}"'
        ]
    found = []
    above = date.max
    for section in sections:
        name, _, day = section.partition(" - ")
        wrong = _wrong_date(day)
        if wrong is not None:
            found.append(f"CHANGELOG.md dates {name} on {day}, which is {wrong}")
        elif date.fromisoformat(day) > above:
            found.append(f"CHANGELOG.md: {name} of {day} stands below a version of {above}")
        else:
            above = date.fromisoformat(day)
    return found


def _of_citation(root: Path, version: str) -> list[str]:
    citation = root / "CITATION.cff"
    released = _sections(root)[0].partition(" - ")[2]
    license = _found(root / "pyproject.toml", r'^license = "(.+)"$')
    wanted = {"version": version, "license": license}
    if released:
        wanted["date-released"] = released
    found = [
        f"CITATION.cff must have {field}: {value}; it has {cited}"
        for field, value in wanted.items()
        if (cited := _cited(citation, field)) != value
    ]
    day = _cited(citation, "date-released")
    wrong = _wrong_date(day)
    if wrong is not None:
        found.append(f"CITATION.cff has the date {day}, which is {wrong}")
    title = _cited(citation, "title")
    if not title.startswith("fishermask_fast:"):
        found.append(
            f"CITATION.cff must have a title that begins with fishermask_fast:; got {title}"
        )
    text = citation.read_text(encoding="utf-8")
    named = re.findall(
        r"arxiv\.org/abs/([\d.]*\d)", (root / "README.md").read_text(encoding="utf-8")
    )
    for number in dict.fromkeys(named):
        doi = f"10.48550/arXiv.{number}"
        if not re.search(rf"doi: {re.escape(doi)}$", text, re.MULTILINE):
            found.append(f"CITATION.cff must have doi: {doi}, which README.md cites")
    return found


def _wrong_date(day: str) -> str | None:
    """What is wrong with a release's date; None where nothing is."""
    try:
        parsed = date.fromisoformat(day) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", day) else None
    except ValueError:
        parsed = None
    if parsed is None:
        return "no date (YYYY-MM-DD)"
    # Where the day begins first it is already the next one.
    latest = datetime.now(timezone(timedelta(hours=14))).date()
    return "yet to come" if parsed > latest else None


def _cited(citation: Path, field: str) -> str:
    return _found(citation, rf'^{field}: "?(.+?)"?$')


def _found(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    return "none" if match is None else match.group(1)


def main() -> int:
    tag = sys.argv[1] if len(sys.argv) > 1 else None
    found = disagreements(ROOT, tag)
    print("\n".join(found) or "version, changelog, citation and tag agree")
    if tag is None and (named := placeholders(ROOT)):
        print(
            f"NOT READY FOR A TAG: {PLACEHOLDER} in {' and '.join(named)} is a placeholder for the "
            "account that publishes the project; with a tag this fails"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
