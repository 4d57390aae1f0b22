"""User tokens: JWTs (RFC 7519) signed with HS256, made by the app's own backend."""

from __future__ import annotations

from collections.abc import Callable

import jwt

from understudy.core.errors import BadToken, ConfigError

MIN_SECRET_CHARS = 32


def make_token(secret: str, user: str, expires_s: float) -> str:
    """A token for `user`, good until `expires_s` (Unix time)."""
    return jwt.encode({"sub": user, "exp": int(expires_s)}, secret, algorithm="HS256")


def token_check(secret: str | None) -> Callable[[str | None, str], None]:
    """The edge's check of (token, user). Without a secret everybody is who they say.

    Raises ConfigError if the secret is too short to keep anybody out (RFC 7518, section 3.2).
    """
    if secret is None:
        return lambda token, user: None
    if len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(f"UNDERSTUDY_SECRET needs {MIN_SECRET_CHARS} characters or more")

    def check(token: str | None, user: str) -> None:
        if token is None:
            raise BadToken("this server asks for a token; your app's backend makes it")
        try:
            claims = jwt.decode(
                token, secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
        except jwt.ExpiredSignatureError:
            raise BadToken("the token has expired; ask your app's backend for a new one") from None
        except jwt.InvalidTokenError as error:
            raise BadToken(f"the token is not valid: {error}") from None
        if claims["sub"] != user:
            raise BadToken("the token is another user's")

    return check
