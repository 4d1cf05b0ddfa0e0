import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg.conninfo
import pytest

from market_pipelines import redaction
from market_pipelines.settings import LogLevel, Settings, SettingsError, SimulatorUse, read_settings

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"
ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")

WriteEnv = Callable[[str], Path]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(redaction, "_known", ())
    yield


@pytest.fixture
def write_env(tmp_path: Path) -> WriteEnv:
    def write(text: str) -> Path:
        path = tmp_path / ".env"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_setting_stands_in_the_example_and_nothing_else() -> None:
    named = [found[1] for line in EXAMPLE.read_text().splitlines() if (found := ASSIGNMENT.fullmatch(line))]
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_holds_the_defaults() -> None:
    assert read_settings(EXAMPLE) == read_settings(None)


def test_every_line_of_the_example_is_explained() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if ASSIGNMENT.fullmatch(line):
            assert above.startswith("# "), f"{line} has no explanation above it"
            assert not above.startswith("# ---"), f"{line} has only a headline above it"


def test_the_environment_goes_before_the_file(write_env: WriteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    assert read_settings(write_env("LOG_LEVEL=DEBUG\n")).log_level is LogLevel.ERROR


def test_an_override_goes_before_both(write_env: WriteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    settings = read_settings(write_env("LOG_LEVEL=DEBUG\n"), log_level="warning")
    assert settings.log_level is LogLevel.WARNING


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("POSTGRES_PORT=99999", ["POSTGRES_PORT", "'99999'", "a whole number from 1 to 65535"]),
        ("STOOQ_RATE_LIMIT=0", ["STOOQ_RATE_LIMIT", "'0'", "a whole number, 1 or more"]),
        ("ALPHA_VANTAGE_DAILY_QUOTA=many", ["ALPHA_VANTAGE_DAILY_QUOTA", "'many'", "a whole number, 0 or more"]),
        ("LOG_LEVEL=loud", ["LOG_LEVEL", "'loud'", "DEBUG, INFO, WARNING, ERROR"]),
        ("LOG_FORMAT=xml", ["LOG_FORMAT", "'xml'", "console, json"]),
        ("MARKET_PIPELINES_SIMULATOR=maybe", ["MARKET_PIPELINES_SIMULATOR", "'maybe'", "auto, on, off"]),
        ("YAHOO_BASE_URL=ftp://x", ["YAHOO_BASE_URL", "'ftp://x'", "http://", "https://", "for example"]),
        ("STOOQ_BASE_URL=https://", ["STOOQ_BASE_URL", "'https://'", "for example"]),
        ("STOOQ_BASE_URL=https://h/?a=1", ["STOOQ_BASE_URL", "no parameters"]),
        ("DATABASE_URL=mysql://h/db", ["DATABASE_URL", "begins with mysql://", "postgresql://"]),
        ("DATABASE_URL=market", ["DATABASE_URL", "not the address of a database", "postgresql://"]),
    ],
)
def test_a_wrong_value_is_named_shown_and_explained(write_env: WriteEnv, line: str, parts: list[str]) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(write_env(f"# a comment\n\n{line}\n"))
    message = str(refused.value)
    assert all(part in message for part in parts), message
    assert "line 3" in message


def test_a_wrong_value_from_the_environment_is_not_blamed_on_the_file(
    write_env: WriteEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PORT", "none")
    with pytest.raises(SettingsError, match=r"'none' \(from the environment\)"):
        read_settings(write_env("POSTGRES_PORT=5432\n"))


def test_all_wrong_values_are_told_at_once(write_env: WriteEnv) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(write_env("LOG_LEVEL=loud\nPOSTGRES_PORT=0\n"))
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    "line",
    [
        "DATABASE_URL=mysql://me:hunter2hunter2@h/db",
        "DATABASE_URL=hunter2hunter2",
        "YAHOO_BASE_URL=http://me:hunter2hunter2@h",
        "YAHOO_BASE_URL=http://h/?apikey=hunter2hunter2",
    ],
)
def test_a_refusal_shows_no_secret(write_env: WriteEnv, line: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(write_env(line))
    assert "hunter2" not in str(refused.value)


def test_repr_shows_no_secret() -> None:
    settings = read_settings(
        None,
        database_url="postgresql://me:hunter2hunter2@h/db",
        postgres_password="hunter2hunter2",
        alpha_vantage_api_key="hunter2hunter2",
        stooq_api_key="hunter2hunter2",
    )
    assert "hunter2" not in repr(settings) + str(settings) + str(settings.model_dump())


def test_secrets_are_registered_also_the_password_inside_an_address() -> None:
    read_settings(None, database_url="postgresql://me:hun%40ter2@h/db", stooq_api_key="KEYKEYKEY")
    assert redaction.redact("hun@ter2 hun%40ter2 KEYKEYKEY") == " ".join([redaction.MASK] * 3)


def test_a_key_that_a_manual_prints_is_no_secret() -> None:
    read_settings(None, alpha_vantage_api_key="demo")
    assert redaction.redact("a demo") == "a demo"


@pytest.mark.parametrize("address", ["http://127.0.0.1:8099/yahoo/", "http://127.0.0.1:8099/yahoo"])
def test_a_slash_at_the_end_of_a_base_address_makes_no_difference(address: str) -> None:
    assert read_settings(None, yahoo_base_url=address).yahoo_base_url == "http://127.0.0.1:8099/yahoo"


def test_spaces_and_empty_values_mean_nothing(write_env: WriteEnv) -> None:
    settings = read_settings(
        write_env('STOOQ_API_KEY="  "\nLOG_FORMAT=" JSON "\nPRIMARY_PROVIDER=" Yahoo "\nYAHOO_BASE_URL=\n')
    )
    assert settings.stooq_api_key is None
    assert settings.log_format == "json"
    assert settings.primary_provider == "yahoo"
    assert settings.yahoo_base_url is None


def test_fallback_providers_stand_between_commas() -> None:
    settings = read_settings(None, fallback_providers=" Yahoo, stooq ,")
    assert settings.fallback_providers == ("yahoo", "stooq")


def test_without_any_database_setting_the_embedded_one_serves() -> None:
    assert read_settings(None).external_database_url is None


def test_the_database_address_goes_before_its_parts() -> None:
    settings = read_settings(None, database_url="postgresql://a@b/c", postgres_host="other")
    assert settings.external_database_url == "postgresql://a@b/c"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"postgres_host": "db"}, {"host": "db", "port": "5432", "user": "postgres", "dbname": "market_pipelines"}),
        (
            {"postgres_host": "::1", "postgres_user": "a:b", "postgres_password": "p@ss/w:rd%", "postgres_db": "m&x"},
            {"host": "::1", "user": "a:b", "password": "p@ss/w:rd%", "dbname": "m&x"},
        ),
        (
            {"postgres_host": "/run/my postgres", "postgres_port": 5433},
            {"host": "/run/my postgres", "port": "5433"},
        ),
    ],
)
def test_the_parts_of_a_database_address_arrive_unchanged(
    parts: dict[str, str | int], expected: dict[str, str]
) -> None:
    url = read_settings(None, **parts).external_database_url
    assert url is not None
    understood = psycopg.conninfo.conninfo_to_dict(url)
    assert {name: understood[name] for name in expected} == expected


@pytest.mark.parametrize(
    "line", ["POSTGRES_PASSWORD=hunter2hunter2", "POSTGRES_DB=other", "POSTGRES_USER=me", "POSTGRES_PORT=5433"]
)
def test_parts_of_an_address_without_its_host_are_refused(write_env: WriteEnv, line: str) -> None:
    with pytest.raises(SettingsError, match="POSTGRES_HOST") as refused:
        read_settings(write_env(line))
    assert line.partition("=")[0] in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_data_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings(None).home == tmp_path / ".market_pipelines"


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"LOG_LEVEL=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"\.env"):
        read_settings(path)


def test_choices_may_be_written_in_any_case() -> None:
    assert read_settings(None, market_pipelines_simulator="OFF").market_pipelines_simulator is SimulatorUse.OFF
