"""A second factor beside the password: a code that an app shows for 30 seconds (TOTP, RFC 6238), or a recovery code.

What the app shares with us is sealed with the master keys; of recovery codes, 80 random bits each, the SHA-256 is kept.
A code works once: its time step is remembered, and neither it nor an earlier one is taken again (section 5.2). Clocks
may differ by a step. How often codes may be tried is counted in `sign_ins`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Final

import pyotp
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import Conflict, Invalid, Unavailable
from control_plane.sealing import CannotOpen, MasterKeys
from control_plane.tables import RecoveryCode, SecondFactor

STEP_SECONDS: Final = 30
# A clock that is off by more shows codes of another time; RFC 6238 recommends one step.
STEPS_AROUND: Final = 1
RECOVERY_CODES: Final = 10
RECOVERY_BYTES: Final = 10
ISSUER: Final = "Skafos"
# Longer than a recovery code with its hyphens; what is longer is not hashed.
MAX_CODE_LENGTH: Final = 40

_DIGITS: Final = re.compile(r"[0-9]{6}")
_BEGIN_AGAIN: Final = "Begin again: another page has turned it on, or off."
WRONG: Final = "This is not the code of this moment, or it was used already."


def purpose(user_id: str) -> str:
    """Return what a sealed secret is for."""
    return f"totp:{user_id}"


def address_of(secret: str, email: str) -> str:
    """Return what the QR code says to an app (the key URI format of authenticator apps)."""
    return pyotp.TOTP(secret, interval=STEP_SECONDS).provisioning_uri(name=email, issuer_name=ISSUER)


class SecondFactors:
    """Turns them on and off, and checks codes.

    Args:
        keys: the file of the master keys.
    """

    def __init__(self, keys: MasterKeys) -> None:
        self._keys = keys

    async def is_on(self, session: AsyncSession, user_id: str) -> bool:
        """Say whether a user has to give a code."""
        row = await session.get(SecondFactor, user_id)
        return row is not None and row.confirmed_at is not None

    async def begin(self, session: AsyncSession, user_id: str) -> str:
        """Return a fresh secret for the user's app; it counts once a code of it was given.

        Raises:
            Conflict: a second factor is on already.
        """
        row = await session.get(SecondFactor, user_id, with_for_update=True)
        if row is not None and row.confirmed_at is not None:
            raise Conflict("A second factor is on already; turn it off first.")
        secret = pyotp.random_base32()
        sealer = await asyncio.to_thread(self._keys.sealer)
        if row is None:
            row = SecondFactor(user_id=user_id)
            session.add(row)
        row.sealed, row.last_step = sealer.seal(secret.encode(), purpose(user_id)), 0
        return secret

    async def begun(self, session: AsyncSession, user_id: str) -> str:
        """Return the secret of which no code was given yet.

        Raises:
            Conflict: there is none.
            Unavailable: it cannot be opened.
        """
        row = await session.get(SecondFactor, user_id)
        if row is None or row.confirmed_at is not None:
            raise Conflict(_BEGIN_AGAIN)
        return await self._open(row)

    async def confirm(self, session: AsyncSession, user_id: str, code: str, now: datetime) -> list[str]:
        """Turn the second factor on, since the app shows the right code; return the recovery codes.

        Raises:
            Conflict: it was not begun, or is on already.
            Invalid: the code is not right.
        """
        row = await session.get(SecondFactor, user_id, with_for_update=True)
        if row is None or row.confirmed_at is not None:
            raise Conflict(_BEGIN_AGAIN)
        if not await self._is_code(row, code, now):
            raise Invalid(f"code: {WRONG}", "wrong_code", "code")
        row.confirmed_at = now
        return await self.renew_recovery_codes(session, user_id)

    async def check(self, session: AsyncSession, user_id: str, code: str, now: datetime) -> str | None:
        """Use a code up, of the app or for recovery; return which it was, or None if it is not right.

        Args:
            session: a writing one.
            user_id: whose.
            code: as it was typed.
            now: the moment of the try.
        """
        row = await session.get(SecondFactor, user_id, with_for_update=True)
        if row is None or row.confirmed_at is None or len(code) > MAX_CODE_LENGTH:
            return None
        if await self._is_code(row, code, now):
            return "app"
        used = (
            delete(RecoveryCode)
            .where(RecoveryCode.user_id == user_id, RecoveryCode.code_hash == _hash(user_id, code))
            .returning(RecoveryCode.code_hash)
        )
        return None if (await session.execute(used)).one_or_none() is None else "recovery"

    async def renew_recovery_codes(self, session: AsyncSession, user_id: str) -> list[str]:
        """Return fresh recovery codes, the only moment at which they are known; those before work no more."""
        await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
        codes = [_new_code() for _ in range(RECOVERY_CODES)]
        session.add_all(RecoveryCode(user_id=user_id, code_hash=_hash(user_id, code)) for code in codes)
        return codes

    async def recovery_codes_left(self, session: AsyncSession, user_id: str) -> int:
        """Return how many recovery codes were not used."""
        count = select(func.count()).select_from(RecoveryCode).where(RecoveryCode.user_id == user_id)
        return await session.scalar(count) or 0

    async def _is_code(self, row: SecondFactor, code: str, now: datetime) -> bool:
        """Say whether it is a code of the app that was not used, and remember that it is now."""
        digits = code.replace(" ", "")
        if not _DIGITS.fullmatch(digits):
            return False
        step = matching_step(await self._open(row), digits, now)
        if step is None or step <= row.last_step:
            return False
        row.last_step = step
        return True

    async def _open(self, row: SecondFactor) -> str:
        try:
            sealer = await asyncio.to_thread(self._keys.sealer)
            return sealer.open(row.sealed, purpose(row.user_id)).decode()
        except CannotOpen:
            sentence = "Codes of the app cannot be checked: its secret cannot be opened. Use a recovery code."
            raise Unavailable(sentence, "sealed") from None


async def turn_off(session: AsyncSession, user_id: str) -> bool:
    """Turn a user's second factor off; return whether it was on."""
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    gone = delete(SecondFactor).where(SecondFactor.user_id == user_id).returning(SecondFactor.confirmed_at)
    return (await session.execute(gone)).scalar_one_or_none() is not None


def matching_step(secret: str, digits: str, now: datetime) -> int | None:
    """Return the time step that a code is of, the newest of those around a moment."""
    totp, present = pyotp.TOTP(secret, interval=STEP_SECONDS), int(now.timestamp()) // STEP_SECONDS
    found = None
    for step in range(present - STEPS_AROUND, present + STEPS_AROUND + 1):
        if hmac.compare_digest(totp.generate_otp(step), digits):
            found = step
    return found


def _new_code() -> str:
    text = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _hash(user_id: str, code: str) -> str:
    plain = code.replace(" ", "").replace("-", "").lower()
    return hashlib.sha256(f"recovery:{user_id}:{plain}".encode(errors="replace")).hexdigest()
