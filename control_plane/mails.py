"""What the mails say."""

from __future__ import annotations

from control_plane.mail import Mail


def invitation(to: str, organization: str, role: str, by: str, link: str) -> Mail:
    """Return the mail with an invitation."""
    text = (
        f"{by} invites you to {organization} on Skafos, as {role}.\n\n"
        f"This link lets you join. It works once, for a week:\n\n{link}\n\n"
        "If you do not know what this is about, do nothing.\n"
    )
    return Mail(to, f"Join {organization} on Skafos", text)


def sign_up(to: str, link: str) -> Mail:
    """Return the mail with a link that makes an account."""
    text = (
        "Somebody, you we hope, wants an account with this address at Skafos.\n\n"
        f"This link makes it. It works once, for a day:\n\n{link}\n\n"
        "If it was not you, do nothing: there will be none.\n"
    )
    return Mail(to, "Your account at Skafos", text)


def signed_up_before(to: str, sign_in: str, forgotten: str) -> Mail:
    """Return the mail to somebody who wants an account and has one."""
    text = (
        "Somebody, you we hope, wants an account with this address at Skafos. You have one: sign in.\n\n"
        f"{sign_in}\n\nForgot the password? Set another one:\n\n{forgotten}\n\n"
        "If it was not you, do nothing.\n"
    )
    return Mail(to, "You have an account at Skafos", text)


def reset(to: str, link: str) -> Mail:
    """Return the mail with a link with which another password is set."""
    text = (
        "Somebody, you we hope, asked for a new password for Skafos.\n\n"
        f"This link lets you set one. It works once, for an hour:\n\n{link}\n\n"
        "If it was not you, do nothing: your password stays as it is.\n"
    )
    return Mail(to, "A new password for Skafos", text)
