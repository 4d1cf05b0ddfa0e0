"""Every setting of the platform, read once at a door (a command, Dagster, a notebook) and handed down.

Values come from the environment, then from `.env`. A wrong value stops the start with a `SettingsError` that
names the variable, what was read, where, and what is accepted. Nobody below the doors reads the environment.
Which providers and markets exist is not known here: their names are checked where they are looked up.
"""

from __future__ import annotations

import logging
import os
import re
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote, unquote, urlsplit

from annotated_types import Ge, Le
from dotenv.parser import parse_stream
from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from market_pipelines.redaction import MASK, redact, register_secret


class SettingsError(Exception):
    """A setting cannot be used. The message is for the person who set it."""


class _Choice(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """Capitals or not makes no difference to the person who writes a setting."""
        return next((choice for choice in cls if choice.lower() == str(value).lower()), None)


class LogFormat(_Choice):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(_Choice):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class BarInterval(_Choice):
    MINUTE = "1min"
    FIVE_MINUTES = "5min"
    QUARTER = "15min"
    HALF_HOUR = "30min"
    HOUR = "60min"


class NotifySeverity(_Choice):
    ERROR = "error"
    WARNING = "warning"


class SimulatorUse(_Choice):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class StreamHost(_Choice):
    """Who runs the live service."""

    PROCESS = "process"
    DAGSTER = "dagster"


def _web_address(value: str) -> str:
    address = urlsplit(value)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise ValueError("it is not a web address")
    if address.query or address.fragment or "@" in address.netloc:
        raise ValueError("a base address carries no user, no password and no parameters")
    return value.rstrip("/")


def _address_of(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        address = urlsplit(value)
        if address.scheme not in schemes or not address.hostname:
            raise ValueError(f"it does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value.rstrip("/")

    return AfterValidator(check)


def _redis_address(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in {"redis", "rediss", "unix"} or parts.port == 0:  # a port that is none is a ValueError
        raise ValueError("it is not the address of a Redis server")
    return value


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("it is not a host and a port")
    return value


def _postgresql_address(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", text, re.IGNORECASE)
    if scheme is None:
        raise ValueError("it is not the address of a database")
    if scheme[1] != "postgresql":
        raise ValueError(f"it begins with {scheme[1]}://")
    return value


def notification_addresses(text: str) -> tuple[str, ...]:
    """A comma ends an address only where another one begins: some have commas in them."""
    parts = re.split(r"[\s,;]+(?=[A-Za-z][A-Za-z0-9+.-]*://)|\s+", text.strip())
    return tuple(part.strip(",;") for part in parts)


def _addresses_that_apprise_knows(value: SecretStr) -> SecretStr:
    import apprise  # noqa: PLC0415 (a tenth of a second, for those who set it)

    addresses = notification_addresses(value.get_secret_value())
    logger = logging.getLogger("apprise")
    logger.disabled = True  # it would say the address
    try:
        wrong = [at for at, address in enumerate(addresses, 1) if apprise.Apprise.instantiate(address) is None]
    finally:
        logger.disabled = False
    if wrong:
        raise ValueError(
            f"of {len(addresses)} addresses number {', '.join(map(str, wrong))} is of no service that Apprise knows, "
            "or lacks a part"
        )
    return value


Port = Annotated[int, Field(ge=1, le=65535)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
SocketAddress = Annotated[str, _address_of("ws", "wss")]
RedisAddress = Annotated[SecretStr, AfterValidator(_redis_address)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
DatabaseAddress = Annotated[SecretStr, AfterValidator(_postgresql_address)]
AtLeastOne = Annotated[int, Field(ge=1)]
NotificationAddresses = Annotated[SecretStr, AfterValidator(_addresses_that_apprise_knows)]
Minutes = Annotated[int, Field(ge=0)]
WithinAnHour = Annotated[int, Field(ge=0, le=60)]
"""Minutes."""
Days = Annotated[int, Field(ge=0)]
"""0 means for ever."""
Gigabytes = Annotated[int, Field(ge=0)]
"""0 means without limit."""
AtMost = Annotated[int, Field(ge=0)]
"""0 means without limit."""
PerMinute = Annotated[int, Field(ge=1)]
PerSecond = Annotated[int, Field(ge=0)]
"""0 means no limit of its own: the one of the minute holds."""
PerDay = Annotated[int, Field(ge=0)]
"""0 means that the provider sets no daily limit."""
Percent = Annotated[int, Field(ge=0, le=90)]
"""Of a daily quota: what is kept back for quotes, so that a backfill cannot use up the day."""


DELAYED = timedelta(minutes=15)
"""What the tapes of the American exchanges hold back from plans that are not live."""

RENAMED_PROVIDERS = {
    "massive": "polygon",
    "iex": "iex_cloud",
    "yahoo_finance": "yahoo",
    "alphavantage": "alpha_vantage",
}
"""Other names under which people know a provider."""


def provider_name(text: str) -> str:
    name = text.strip().lower()
    return RENAMED_PROVIDERS.get(name, name)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
    )

    market_pipelines_home: Path = Path(".market_pipelines")
    market_pipelines_simulator: SimulatorUse = SimulatorUse.AUTO

    database_url: DatabaseAddress | None = None
    postgres_host: str | None = None
    postgres_port: Port = 5432
    postgres_db: str = "market_pipelines"
    postgres_user: str = "postgres"
    postgres_password: SecretStr | None = None

    alpha_vantage_api_key: SecretStr | None = None
    polygon_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("polygon_api_key", "massive_api_key")
    )
    iex_cloud_api_key: SecretStr | None = None
    iex_cloud_sandbox: bool = False
    stooq_api_key: SecretStr | None = None

    alpha_vantage_base_url: WebAddress | None = None
    yahoo_base_url: WebAddress | None = None
    polygon_base_url: WebAddress | None = None
    iex_cloud_base_url: WebAddress | None = None
    stooq_base_url: WebAddress | None = None
    polygon_ws_url: SocketAddress | None = None
    yahoo_ws_url: SocketAddress | None = None

    alpha_vantage_rate_limit: PerMinute = 60
    alpha_vantage_rate_limit_second: PerSecond = 1
    alpha_vantage_daily_quota: PerDay = 25
    yahoo_rate_limit: PerMinute = 120
    yahoo_rate_limit_second: PerSecond = 0
    yahoo_daily_quota: PerDay = 0
    polygon_rate_limit: PerMinute = 5
    polygon_rate_limit_second: PerSecond = 0
    polygon_daily_quota: PerDay = 0
    iex_cloud_rate_limit: PerMinute = 300
    iex_cloud_rate_limit_second: PerSecond = 0
    iex_cloud_daily_quota: PerDay = 0
    stooq_rate_limit: PerMinute = 60
    stooq_rate_limit_second: PerSecond = 0
    stooq_daily_quota: PerDay = 0
    quote_reserve: Percent = 20

    primary_provider: str | None = None
    fallback_providers: Annotated[tuple[str, ...] | None, NoDecode] = None

    default_interval: BarInterval = BarInterval.FIVE_MINUTES
    default_polling_interval: AtLeastOne = 5
    batch_size: AtLeastOne = 10

    notify_urls: NotificationAddresses | None = None
    notify_severity: NotifySeverity = NotifySeverity.ERROR
    notify_settle_minutes: Minutes = 10
    dagster_url: WebAddress = "http://127.0.0.1:3000"

    retention_raw_archive_days: Days = 0
    retention_raw_archive_gb: Gigabytes = 0
    retention_provider_bars_days: Days = 0
    retention_intraday_days: Days = 0
    retention_revisions_days: Days = 0
    retention_ticks_days: Days = 0
    retention_quarantine_days: Days = 0
    retention_fetches_days: Days = 90
    retention_job_logs_days: Days = 180
    retention_check_results_days: Days = 90
    retention_incidents_days: Days = 365
    retention_stream_gaps_days: Days = 90
    retention_dagster_events_days: Days = 30
    retention_dagster_ticks_days: Days = 7

    stream_hosted_by: StreamHost = StreamHost.PROCESS
    stream_journal_gb: AtLeastOne = 10
    stream_journal_hours: AtLeastOne = 48
    stream_reconnect_attempts: AtMost = 0
    stream_ticks_in_database: bool = False
    stream_metrics_port: Port | None = None
    stream_polygon_delay_minutes: WithinAnHour | None = None

    redis_url: RedisAddress | None = None
    questdb_host: str | None = None
    questdb_port: Port = 8812
    questdb_ilp_port: Port = 9000
    questdb_user: str = "admin"
    questdb_password: SecretStr = SecretStr("quest")
    questdb_tls: bool = False
    pocketbase_url: WebAddress | None = None
    pocketbase_email: str | None = None
    pocketbase_password: SecretStr | None = None
    db_server: HostAndPort | None = None

    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.CONSOLE
    market_data_log_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _spaces_around_a_value_mean_nothing(cls, values: dict[str, Any]) -> dict[str, Any]:
        stripped = {name: v.strip() if isinstance(v, str) else v for name, v in values.items()}
        return {name: value for name, value in stripped.items() if value != ""}

    @field_validator("primary_provider", mode="before")
    @classmethod
    def _name_as_it_is_registered(cls, value: object) -> object:
        return provider_name(value) if isinstance(value, str) else value

    @field_validator("fallback_providers", mode="before")
    @classmethod
    def _names_between_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(provider_name(name) for name in value.split(",") if name.strip())
        return value

    @model_validator(mode="after")
    def _a_database_is_named_whole(self) -> Self:
        if self.database_url is not None or self.postgres_host is not None:
            return self
        for name in ("postgres_port", "postgres_db", "postgres_user", "postgres_password"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name.upper()}: set, but POSTGRES_HOST is not; accepted: POSTGRES_HOST with it (for "
                    "example localhost), or neither: then the embedded PostgreSQL serves"
                )
        return self

    @cached_property
    def home(self) -> Path:
        return self.market_pipelines_home.expanduser().absolute()

    @property
    def external_database_url(self) -> str | None:
        """The operator's own PostgreSQL, or None where the embedded one serves."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.postgres_host is None:
            return None
        password = f":{quote(self.postgres_password.get_secret_value(), safe='')}" if self.postgres_password else ""
        user = quote(self.postgres_user, safe="")
        database = quote(self.postgres_db, safe="")
        if self.postgres_host.startswith("/"):
            folder = quote(self.postgres_host, safe="")
            return f"postgresql://{user}{password}@/{database}?host={folder}&port={self.postgres_port}"
        host = f"[{self.postgres_host}]" if ":" in self.postgres_host else self.postgres_host
        return f"postgresql://{user}{password}@{host}:{self.postgres_port}/{database}"

    @property
    def polygon_delay(self) -> timedelta:
        """How much later than the exchange Polygon's stream is by its plan: as told, or by the name of its server."""
        if self.stream_polygon_delay_minutes is not None:
            return timedelta(minutes=self.stream_polygon_delay_minutes)
        host = urlsplit(self.polygon_ws_url or "").hostname or ""
        return DELAYED if host.partition(".")[0].startswith("delayed") else timedelta()

    @property
    def has_provider_key(self) -> bool:
        return any(key is not None for key in self._provider_keys)

    @property
    def names_a_provider_address(self) -> bool:
        return any(
            (
                self.alpha_vantage_base_url,
                self.yahoo_base_url,
                self.polygon_base_url,
                self.iex_cloud_base_url,
                self.stooq_base_url,
            )
        )

    @property
    def _provider_keys(self) -> tuple[SecretStr | None, ...]:
        return (self.alpha_vantage_api_key, self.polygon_api_key, self.iex_cloud_api_key, self.stooq_api_key)

    def secrets(self) -> tuple[str, ...]:
        """Everything that must never be seen: keys, passwords, and the password inside a database address."""
        values = [self.postgres_password, self.pocketbase_password, *self._provider_keys]
        if self.questdb_password.get_secret_value() != _EVERYBODY_KNOWS:
            values.append(self.questdb_password)
        texts = [value.get_secret_value() for value in values if value is not None]
        if self.database_url is not None:
            texts.append(_password_of(self.database_url.get_secret_value()))
        if self.redis_url is not None:
            texts.append(_password_of(self.redis_url.get_secret_value()))
        if self.notify_urls is not None:
            texts += _secret_parts(self.notify_urls.get_secret_value())
        return tuple(text for text in texts if text)


def read_settings(env_file: Path | str | None = ".env", **overrides: Any) -> Settings:
    """The settings of this process. An override (a command's option) goes before environment and `.env`."""
    try:
        settings = Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, env_file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from None
    for secret in settings.secrets():
        register_secret(secret)
    return settings


def _password_of(address: str) -> str:
    user_and_password, at, _ = address.partition("://")[2].rpartition("@")
    return unquote(user_and_password.partition(":")[2]) if at else ""


def _secret_parts(addresses: str) -> list[str]:
    """What of notification addresses must not be seen: which part of one is a token differs from service to
    service, so passwords and all long words do but what looks like a name or a host, and each address as a whole."""
    found = []
    for address in notification_addresses(addresses):
        rest = address.partition("://")[2]
        found += [address, rest]
        authority = rest.partition("/")[0]
        if "@" in authority:
            found.append(unquote(authority.rpartition("@")[0].partition(":")[2]))
        for word in re.split(r"[/?&=#;,:@\s]+", rest):
            if len(word) >= _SHORTEST_TOKEN and not _NO_TOKEN.fullmatch(word):
                found += [word, unquote(word)]
    return list(dict.fromkeys(found))


_EVERYBODY_KNOWS = "quest"
"""QuestDB's password out of the box: hiding it would hide every table's and host's name that has it in it."""
_SHORTEST_TOKEN = 8
_NO_TOKEN = re.compile(r"[a-z]{1,13}|(?i:[a-z0-9-]+(\.[a-z0-9-]+)+)")
"""A word that a person would choose, or a host."""


def _explain(error: ValidationError, env_file: Path | str | None) -> str:
    lines = []
    for problem in error.errors():
        reason = redact(str(problem["msg"]).removeprefix("Value error, "))
        if not problem["loc"]:
            lines.append(reason)
            continue
        name = str(problem["loc"][0])
        secret = "SecretStr" in str(Settings.model_fields[name].annotation)
        read = MASK if secret else redact(repr(_as_written(problem["input"])))
        why = f" ({reason})" if problem["type"] == "value_error" else ""
        lines.append(f"{name.upper()}: {read}{_place(name, env_file)} cannot be used{why}; accepted: {_accepted(name)}")
    return "\n".join(lines)


def _as_written(value: object) -> object:
    return ",".join(str(part) for part in value) if isinstance(value, tuple | list) else value


_WEB = "an address that begins with http:// or https://, for example http://127.0.0.1:8099"
_IN_WORDS = {
    "database_url": "a PostgreSQL address, for example postgresql://me@localhost:5432/market_pipelines",
    "notify_urls": "addresses as Apprise spells them, with spaces between, for example json://127.0.0.1:8080/alarm",
    "redis_url": "an address that begins with redis:// or rediss://, for example redis://127.0.0.1:6379/0",
    "_ws_url": "an address that begins with ws:// or wss://, for example ws://127.0.0.1:8099/polygon",
    "_base_url": _WEB,
    "dagster_url": _WEB,
    "pocketbase_url": _WEB,
    "db_server": "a host and a port, for example localhost:9100",
    "_metrics_port": "a whole number from 1 to 65535",
    "_delay_minutes": "a whole number from 0 to 60",
}
"""By the ending of a setting's name."""


def _accepted(name: str) -> str:
    """What a field takes, in words for the person who sets it."""
    field = Settings.model_fields[name]
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    if kind is int:
        low = next(limit.ge for limit in field.metadata if isinstance(limit, Ge))
        high = next((limit.le for limit in field.metadata if isinstance(limit, Le)), None)
        return f"a whole number from {low} to {high}" if high else f"a whole number, {low} or more"
    if kind is bool:
        return "true or false"
    for ending, words in _IN_WORDS.items():
        if name.endswith(ending):
            return words
    return "a text of at least one character"


def _place(name: str, env_file: Path | str | None) -> str:
    """Where a value came from: the environment goes before the file, as it does for pydantic."""
    if any(key.lower() == name and value for key, value in os.environ.items()):
        return " (from the environment)"
    if env_file is None or not Path(env_file).is_file():
        return ""
    with Path(env_file).open(encoding="utf-8") as lines:
        parts = [part.original for part in parse_stream(lines) if (part.key or "").lower() == name]
    if not parts:
        return ""
    text = parts[-1].string
    blank_lines_before = text[: len(text) - len(text.lstrip())].count("\n")
    return f" ({env_file}, line {parts[-1].line + blank_lines_before})"
