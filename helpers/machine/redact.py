"""Hides what a report must not carry to a stranger: who the user is, and what opens their accounts."""

import getpass
import json
import platform
import re
from dataclasses import dataclass

from helpers.files import expanded

# Names that say nothing of a person, and words that a report needs.
_COMMON = re.compile(
    "root|user|admin|administrator|runner|ubuntu|debian|home|localhost|python|torch|cuda|nvidia|windows|linux|"
    "desktop|public|default|doctor|test"
)
# What gives a secret away, and what is left of it.
_SECRETS = (
    # Tokens that are known by their beginning: Hugging Face, GitHub, PyPI, OpenAI, AWS, Slack, GitLab.
    (r"\b(hf|gh[pousr]|github_pat|pypi|sk|xox[abprs]|glpat|api_org)([_-])[A-Za-z0-9_-]{12,}", r"\1\2…"),
    (r"\bAKIA[0-9A-Z]{16}\b", "AKIA…"),
    (r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", "eyJ…"),
    (r"(?i)\b((?:proxy-)?authorization\s*[:=]\s*(?:bearer|basic|token)?|bearer)\s+[^\s'\",;]{6,}", r"\1 …"),
    (r"(?i)\b([A-Z0-9_.-]*(?:token|secret|passw(?:or)?d|api_?key)\"?\s*[=:]\s*\"?)[^\s'\"&,;}]+", r"\1…"),
    # A name and password inside an address.
    (r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", r"\1…@"),
    # Serial numbers of the hardware.
    (r"\b(GPU|MIG)-[0-9a-fA-F]{8}-[0-9a-fA-F-]{20,}", r"\1-…"),
)
# A user's folder, whoever the user: C:\Users\name, /home/name, /Users/name, also as in JSON with \\.
_USER_FOLDERS = (
    r"(?i)\b([A-Z]:[\\/]{1,2}(?:Users|Documents and Settings)[\\/]{1,2})(?!Public\b)[^\\/\r\n\"'<>|:*?]+",
    r"((?<![\w.])/(?:home|Users)/)[^/\s\"':;,]+",
)


@dataclass(frozen=True)
class Private:
    """What is private on one machine."""

    home: str  # the user's home folder
    names: tuple[str, ...]  # the user's and the computer's

    @classmethod
    def here(cls) -> "Private":
        """This machine's."""
        home = str(expanded("~"))
        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):
            user = ""
        return cls(home, (user, re.split(r"[\\/]", home.rstrip("\\/"))[-1], platform.node()))


def redact(text: str, private: Private) -> str:
    """``text`` without home folders, names of user and computer, tokens, passwords and serial numbers.

    The home folder becomes ``~``, another user's folder and every name ``<user>``, and of a secret only its
    kind is left.
    """
    for pattern, kept in _SECRETS:
        text = re.sub(pattern, kept, text)
    home = private.home.rstrip("\\/")
    if len(home) > 3:  # never "/" nor "C:\"
        for form in {home, home.replace("\\", "\\\\"), home.replace("\\", "/"), json.dumps(home)[1:-1]}:
            text = re.sub(re.escape(form) + r"(?![\w.-])", "~", text, flags=re.IGNORECASE)
    for folder in _USER_FOLDERS:
        text = re.sub(folder, r"\1<user>", text)
    for name in sorted(set(private.names), key=len, reverse=True):
        if len(name) < (3 if name.isascii() else 2) or _COMMON.fullmatch(name.lower()):
            continue
        # Letters of other scripts stand without spaces around them, so there a name has no ends.
        ends = (r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])") if name.isascii() else ("", "")
        text = re.sub(ends[0] + re.escape(name) + ends[1], "<user>", text, flags=re.IGNORECASE)
    return text
