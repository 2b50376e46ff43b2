"""What may be a name, an e-mail address, an environment's name or a bundle ID.

Names appear in addresses, in the audit log and as file names, so they are normalised (Unicode NFC), bounded, and free
of what misleads there. A name never looks like an id (32 hexadecimal digits), so that one place in an address can take
either.
"""

from __future__ import annotations

import re
import unicodedata

from artifacts.names import normal_name
from control_plane.tables import ID_LENGTH, NAME_LENGTH

# RFC 5321, section 4.5.3.1.3: a path of 256 octets less the angle brackets.
EMAIL_LENGTH = 254
# Apple's limit for a bundle ID.
BUNDLE_ID_LENGTH = 155
DESCRIPTION_LENGTH = 255
FILENAME_LENGTH = 255

_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
_LOOKS_LIKE_ID = re.compile(rf"[0-9a-fA-F]{{{ID_LENGTH}}}")
# The same rule as in environment keys, which begin with the environment's name.
_ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,30}")
# Bundle IDs of Apple and application ids of Android: letters, digits, hyphens, underscores, between dots.
_BUNDLE_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# Deliberately loose (RFC 5322 allows nearly anything): one @, no spaces, a host with letters, digits, dots, hyphens.
_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
# Categories of Unicode: control characters, surrogates, line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They make text read in another order than it is stored (Unicode TR36, section 2.6: bidirectional spoofing).
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# All of these, but the control characters that stand in texts of several lines.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_id(text: str) -> bool:
    """Return whether ``text`` has the form of an id."""
    return _ID.fullmatch(text) is not None


def has_control_characters(text: str) -> bool:
    """Return whether ``text`` holds a control character of any kind, a lone surrogate, or a line separator."""
    return any(
        character in _BIDIRECTIONAL or unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in text
    )


def without_control_characters(text: str) -> str:
    """Return ``text`` as it may be stored and shown, whoever wrote it: of these, only tabs and line ends stay."""
    return _CONTROL.sub("\ufffd", text)


def check_name(text: str) -> str:
    """Return ``text`` as a name, in Unicode's normal form C.

    Raises:
        ValueError: it cannot be a name; the message says why.
    """
    name = unicodedata.normalize("NFC", text)
    if not 1 <= len(name) <= NAME_LENGTH:
        raise ValueError(f"a name has 1 to {NAME_LENGTH} characters")
    if has_control_characters(name):
        raise ValueError("a name holds no control characters")
    if "/" in name or name in {".", ".."}:
        raise ValueError("a name holds no slash, and is not . or ..")
    if name != name.strip():
        raise ValueError("a name neither begins nor ends with a space")
    if _LOOKS_LIKE_ID.fullmatch(name):
        raise ValueError(f"a name is not {ID_LENGTH} hexadecimal digits, which is what ids look like")
    return name


def check_environment_name(text: str) -> str:
    """Return ``text`` as the name of an environment.

    Raises:
        ValueError: it cannot be one.
    """
    if not _ENVIRONMENT.fullmatch(text):
        raise ValueError("an environment's name has 1 to 31 of a-z, 0-9 and -, and begins with a letter")
    return text


def check_bundle_id(text: str) -> str:
    """Return ``text`` as the bundle ID of an application.

    Raises:
        ValueError: it cannot be one.
    """
    if len(text) > BUNDLE_ID_LENGTH or not _BUNDLE_ID.fullmatch(text):
        raise ValueError(
            f"a bundle ID has at most {BUNDLE_ID_LENGTH} letters, digits, - and _, in parts joined by dots"
        )
    return text


def check_email(text: str) -> str:
    """Return ``text`` as an e-mail address, in lower case, so that one person is one user.

    Raises:
        ValueError: it cannot be one.
    """
    email = unicodedata.normalize("NFC", text).lower()
    if len(email) > EMAIL_LENGTH or not _EMAIL.fullmatch(email) or has_control_characters(email):
        raise ValueError("this is not an e-mail address")
    return email


def check_text(text: str) -> str:
    """Return ``text``, a description for people: any characters but control characters; tabs and new lines may be.

    Raises:
        ValueError: it holds control characters.
    """
    if has_control_characters(text.replace("\n", "").replace("\t", "").replace("\r", "")):
        raise ValueError("the text holds control characters")
    return text


def check_filename(text: str) -> str:
    """Return ``text``, the name of an uploaded file as the uploader calls it. It is never used as a path here.

    A file that is no zip keeps its name inside the version, where it must be safe to unpack on every device. So that
    is asked before the bytes are sent, and not when all of them are there.

    Raises:
        ValueError: it is empty, a path, holds control characters, or cannot be unpacked.
    """
    if not text or has_control_characters(text) or "/" in text or "\\" in text or text in {".", ".."}:
        raise ValueError("a file's name is not empty and holds no slash and no control characters")
    if not is_zip_name(text):
        normal_name(text)
    return text


def is_zip_name(filename: str) -> bool:
    """Return whether an upload of this name is unpacked."""
    return filename.lower().endswith(".zip")
