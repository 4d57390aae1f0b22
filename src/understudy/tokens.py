"""The keys: who may be a user, join the fleet, be a worker, or see everything.

Tokens are JWTs (RFC 7519) signed with HS256; `aud` says what one is for, so that none can be
used as another. A token without `aud` is a user's: that is what apps' backends make.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt

from understudy.core.errors import BadToken, ConfigError, Forged

SECRET: Final = "UNDERSTUDY_SECRET"
ADMIN_KEY: Final = "UNDERSTUDY_ADMIN_KEY"
FLEET_KEY: Final = "fleet.key"  # in the data folder
MIN_CHARS: Final = 32
MAX_TOKEN_CHARS: Final = 4096

_ALGORITHM: Final = "HS256"
_USER: Final = "understudy:user"
_JOIN: Final = "understudy:join"
_WORKER: Final = "understudy:worker"
_WORDS: Final = {_USER: "a user's", _JOIN: "a join", _WORKER: "a worker's"}


@dataclass(frozen=True, slots=True)
class Join:
    """What a join token says: the machine's name, and its region if the token binds it to one."""

    name: str
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """What signs and checks. Of several secrets the first signs and all check: so they are
    changed without anybody being logged out."""

    secrets: tuple[str, ...] = field(default=(), repr=False)  # none: users are who they say
    admin: tuple[str, ...] = field(default=(), repr=False)
    fleet: tuple[str, ...] = field(default=(), repr=False)  # for workers and joiners

    @classmethod
    def read(cls, environ: Mapping[str, str], data: Path | None = None) -> Keys:
        """Those of an environment. Without a secret there, workers and joiners are signed for
        with a key in the data folder, which is made if there is none. Raises ConfigError."""
        users = _several(SECRET, environ.get(SECRET, ""))
        admin = _several(ADMIN_KEY, environ.get(ADMIN_KEY, ""))
        if set(users) & set(admin):
            raise ConfigError(f"{SECRET} and {ADMIN_KEY} must differ: make one more")
        return cls(users, admin, users or ((fleet_key(data),) if data else ()))

    @property
    def private(self) -> bool:
        """Whether users have to show who they are."""
        return bool(self.secrets)

    def user_token(self, user: str, expires_s: float) -> str:
        """A token for `user`, good until `expires_s` (Unix time). Raises ConfigError."""
        if not self.secrets:
            raise ConfigError(f"set {SECRET} to the server's secret first")
        return _sign(self.secrets, _USER, user, expires_s)

    def join_token(self, name: str, region: str | None, expires_s: float) -> str:
        """A token with which a machine called `name` may lend itself to the fleet."""
        return _sign(self.fleet, _JOIN, name, expires_s, **({"region": region} if region else {}))

    def worker_token(self, node: str, expires_s: float) -> str:
        """What a worker says to an edge, to be let in as `node`."""
        return _sign(self.fleet, _WORKER, node, expires_s)

    def check_user(self, token: str | None, user: str) -> None:
        """Raises BadToken. Without a secret everybody is who they say."""
        if not self.secrets:
            return
        if token is None:
            raise BadToken("this server asks for a token; your app's backend makes it")
        claims = _claims(self.secrets, _USER, token, "ask your app's backend for a new one")
        if claims["sub"] != user:
            raise BadToken("the token is another user's")

    def check_join(self, token: str) -> Join:
        """Who may join with this token. Raises BadToken."""
        claims = _claims(self.fleet, _JOIN, token, "make a new one: understudy token --join NAME")
        region = claims.get("region")
        return Join(claims["sub"], region if isinstance(region, str) else None)

    def check_worker(self, token: str, node: str) -> bool:
        """Whether the worker that says it is `node` was asked for."""
        try:
            return bool(_claims(self.fleet, _WORKER, token, "")["sub"] == node)
        except BadToken:
            return False

    def is_admin(self, key: str) -> bool:
        """Takes as long for a wrong key as for a right one."""
        shown, right = key.encode(errors="replace"), False
        for admin in self.admin:
            right |= hmac.compare_digest(shown, admin.encode())
        return right


def _several(name: str, text: str) -> tuple[str, ...]:
    keys = tuple(key for part in text.split(",") if (key := part.strip()))
    if any(len(key) < MIN_CHARS for key in keys):  # RFC 7518, section 3.2
        raise ConfigError(
            f"each key in {name} needs {MIN_CHARS} characters or more; make one with "
            "`openssl rand -hex 32`"
        )
    return keys


def _sign(keys: tuple[str, ...], purpose: str, who: str, expires_s: float, **more: str) -> str:
    claims = {"aud": purpose, "sub": who, "exp": int(expires_s), **more}
    return jwt.encode(claims, keys[0], algorithm=_ALGORITHM)


def _claims(keys: tuple[str, ...], purpose: str, token: str, renew: str) -> dict[str, Any]:
    """What a token says, if one of the keys made it, for this purpose. Raises BadToken."""
    if len(token) > MAX_TOKEN_CHARS:
        raise Forged(f"a token has at most {MAX_TOKEN_CHARS} characters")
    reason: Exception | str = "there is no key to check it with"
    for key in keys:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                options={"require": ["exp", "sub"], "verify_aud": False},
            )
        except jwt.InvalidSignatureError as error:
            reason = error  # made with another of the keys, it may be
            continue
        except jwt.ExpiredSignatureError:
            raise BadToken(f"the token has expired; {renew}") from None
        except (jwt.InvalidTokenError, RecursionError, ValueError) as error:
            reason = "it cannot be read" if isinstance(error, RecursionError) else error
            break
        if (meant := claims.get("aud", _USER)) != purpose:
            raise Forged(f"this is {_WORDS.get(str(meant), 'another kind of')} token")
        return claims
    raise Forged(f"the token is not valid: {reason}")


def fleet_key(data: Path) -> str:
    """The key in a data folder; the first process to ask makes it. Raises ConfigError."""
    path = data / FLEET_KEY
    try:
        if not path.exists():
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path, secrets.token_hex(32))
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"others may read {path}; run: chmod 600 {path}")
        (key,) = _several(str(path), path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}") from None
    except (ValueError, UnicodeDecodeError):
        raise ConfigError(f"{path} holds no key; remove it, and a new one is made") from None
    return key


def _create(path: Path, text: str) -> None:
    """Writes a file that appears whole, or leaves the one that somebody else was faster with."""
    handle, written = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(written, path)
    finally:
        Path(written).unlink(missing_ok=True)
