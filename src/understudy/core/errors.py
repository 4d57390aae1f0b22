"""Every refusal Understudy makes, as one tree; the codes on the wire are read off it.

UnderstudyError
├── ClientError            the client's fault; retrying the same thing will not help
│   ├── BadJson            bad_json
│   ├── BadMessage         bad_message
│   ├── AudioBeforeStart   audio_before_start
│   ├── UnknownVoice       unknown_voice
│   ├── BadSampleRate      bad_sample_rate
│   ├── BadParams          bad_params
│   ├── BadToken           bad_token
│   │   └── Forged         bad_token, too: nobody who has the keys made it
│   └── MessageTooBig      message_too_big
├── Busy                   nobody's fault; trying again may help
│   ├── StartTimeout       start_timeout
│   ├── AlreadyLive        already_live
│   ├── Overloaded         overloaded
│   │   └── TooMany        overloaded, too: by this one address or user
│   └── NoCapacity         no_capacity: no machine is to be had; users never see it
├── ServerError            ours
│   ├── ModelFailed        model_failed
│   ├── ProviderFailed     provider_failed: who lends machines does not answer, or refuses
│   └── Internal           internal
│       └── StoreAway      internal, too: nothing that a client would tell apart
├── ConfigError            bad_config: understudy.toml or the command line
└── LinkError              bad_link: a worker and an edge do not understand each other
"""

from __future__ import annotations


class UnderstudyError(Exception):
    """A refusal with a `code` (also on the wire), and a sentence that says what to do."""

    code = "internal"
    retryable = False
    close_code = 1011  # RFC 6455, section 7.4.1
    http_status = 500

    @property
    def message(self) -> str:
        return str(self)


class ClientError(UnderstudyError):
    close_code = 1008
    http_status = 400


class BadJson(ClientError):
    code = "bad_json"
    close_code = 1007


class BadMessage(ClientError):
    code = "bad_message"


class AudioBeforeStart(ClientError):
    code = "audio_before_start"


class UnknownVoice(ClientError):
    code = "unknown_voice"
    http_status = 404


class BadSampleRate(ClientError):
    code = "bad_sample_rate"


class BadParams(ClientError):
    code = "bad_params"


class BadToken(ClientError):
    code = "bad_token"
    http_status = 401


class Forged(BadToken):
    """No key of ours made it, or not for this: somebody may be trying keys."""


class MessageTooBig(ClientError):
    code = "message_too_big"
    close_code = 1009
    http_status = 413


class Busy(UnderstudyError):
    retryable = True
    close_code = 1008
    http_status = 409


class StartTimeout(Busy):
    code = "start_timeout"


class AlreadyLive(Busy):
    """The user has a live stream already; `session` is its id."""

    code = "already_live"

    def __init__(self, user: str, session: str) -> None:
        super().__init__(
            f'{user!r} has a live stream already; end it, or send "takeover": true to move it here'
        )
        self.session = session


class Overloaded(Busy):
    code = "overloaded"
    close_code = 1013
    http_status = 503


class TooMany(Overloaded):
    """One address, or one user, asks for more than its share; `wait_s` until there is some."""

    http_status = 429

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class NoCapacity(Busy):
    """A provider has no machine of the kind asked for, or its quota is used up."""

    code = "no_capacity"
    http_status = 503


class ServerError(UnderstudyError):
    retryable = True


class ModelFailed(ServerError):
    code = "model_failed"


class ProviderFailed(ServerError):
    code = "provider_failed"


class Internal(ServerError):
    code = "internal"


class StoreAway(Internal):
    """The database cannot be reached, or does not answer in time. What was asked may be asked
    again: whatever of it was done already is not done twice."""

    http_status = 503


class ConfigError(UnderstudyError):
    code = "bad_config"


class LinkError(UnderstudyError):
    code = "bad_link"
