"""Passwords, as Argon2id (RFC 9106) with the parameters that its section 4 recommends where memory is scarce.

One hash takes 64 MiB and some tenths of a second, so few are worked out at once: those who try passwords in a flood
wait for one another, and nobody else does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from control_plane.errors import Invalid, Unavailable

# NIST SP 800-63B (revision 3), section 5.1.1.2: at least 8, and no rules on what they are made of.
MIN_LENGTH: Final = 10
# Of passphrases; each is hashed whole.
MAX_LENGTH: Final = 200
AT_ONCE: Final = 2
# As many wait; the others hear that too many sign in at this moment.
MAX_WAITING: Final = 50
# The passwords that are tried first, of those that are long enough (they lead every list of leaked ones).
_COMMON: Final = frozenset(
    {
        "1234567890",
        "12345678910",
        "0123456789",
        "1q2w3e4r5t",
        "qwertyuiop",
        "password123",
        "password1234",
        "iloveyou123",
    }
)


Answer = TypeVar("Answer")


class Passwords:
    """Hashes passwords and compares them, a few at once."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._of_nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Return what is kept of a password."""
        return await self._one_of_few(lambda: self._hasher.hash(password))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Say whether a password is the one that was kept; it takes as long when none was."""
        if self._of_nobody is None:
            self._of_nobody = await self.hash("the password of nobody")
        compared = kept or self._of_nobody
        return await self._one_of_few(lambda: self._compare(compared, password)) and kept is not None

    def _compare(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _one_of_few(self, work: Callable[[], Answer]) -> Answer:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("Too many people sign in at this moment; try again in some seconds.", "too_many_sign_ins")
        self._waiting += 1
        try:
            async with self._places:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1


def check_password(password: str, email: str) -> str:
    """Return a password that somebody chose, if it may be one.

    Raises:
        Invalid: it is too short, too long, or the first that others would try.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        sentence = f"password: A password has {MIN_LENGTH} to {MAX_LENGTH} characters; a few words are a good one."
        raise Invalid(sentence, "unfit_password", "password")
    told = password.casefold()
    if told in _COMMON or len(set(told)) < 4 or told in email.casefold():
        sentence = "password: This is one of the first passwords that somebody else would try."
        raise Invalid(sentence, "unfit_password", "password")
    return password
