"""What can be seen of a PostgreSQL server from outside: its postmaster.pid, its process, its answer."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from market_pipelines.store.embedded_place import EmbeddedError

SUPERUSER = "postgres"


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a running server wrote into postmaster.pid."""

    pid: int
    started: str
    sockets: Path
    ready: bool

    @property
    def identity(self) -> str:
        """Tells this start of a server from any other, also after its number was used again."""
        return f"{self.pid} {self.started}"


def read_postmaster(data: Path) -> Postmaster | None:
    """Lines of postmaster.pid: pid, data folder, start time, port, socket folder, address, memory key, state."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise EmbeddedError(f"the PostgreSQL data folder {data} belongs to another user") from None
    if len(lines) < 5 or not lines[0].strip().isdigit():
        return None
    state = lines[7].strip() if len(lines) > 7 else ""
    return Postmaster(int(lines[0]), lines[2].strip(), Path(lines[4].strip()), state == "ready")


def answers(sockets: Path, data: Path) -> bool:
    """Whether the server on this socket is the one of this folder, and takes connections."""
    if not (sockets / ".s.PGSQL.5432").exists():
        return False
    try:
        with psycopg.connect(
            host=str(sockets), port=5432, user=SUPERUSER, dbname="postgres", connect_timeout=5
        ) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError as error:
        return "too many clients" in str(error) or "connection slots" in str(error)
    return row is not None and Path(row[0]).samefile(data)


def serves(pid: int, data: Path) -> bool:
    """Whether this number names a living PostgreSQL of this folder: numbers are used again, the dead may linger."""
    process = Path("/proc") / str(pid)
    if Path("/proc/self").exists():
        try:
            state = (process / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[-1].split()[0]
            arguments = (process / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state != "Z" and str(data) in arguments
    command = ["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)]
    line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return not line.startswith("Z") and f" {data} " in f"{line} "
