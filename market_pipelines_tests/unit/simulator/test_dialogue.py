"""Which events a subscriber of Polygon's simulated socket is told."""

import socket

from market_pipelines.simulator.faults import FaultBoard
from market_pipelines.simulator.stream.connection import Connection, Cutting
from market_pipelines.simulator.stream.events import Event, Sent
from market_pipelines.simulator.stream.misbehaviour import Misbehaviour
from market_pipelines.simulator.stream.polygon import PolygonDialogue


def event(kind: str, symbol: str, at: int) -> Event:
    return Event(Sent(kind, symbol, at, at), at, b"{}")


def test_only_its_channels_and_only_since_it_subscribed() -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(1, "polygon/stocks", near, 100, Cutting())
        dialogue = PolygonDialogue(
            connection, "stocks", Misbehaviour("polygon", FaultBoard(), 1), lambda change: change(5)
        )
        told: list[Sent] = []
        connection.tell = lambda _payload, ids=(), **_: told.extend(ids)  # type: ignore[method-assign]
        dialogue.heard('{"action":"auth","params":"k"}')
        dialogue.heard('{"action":"subscribe","params":"T.AAPL,Q.*"}')
        events = [event(kind, symbol, at) for at in (4, 5, 6) for kind in "TQ" for symbol in ("AAPL", "KO")]
        dialogue.tell(events, dialogue.channels)
    assert [(one.kind, one.symbol, one.ts) for one in told] == [
        (kind, symbol, at) for at in (5, 6) for kind, symbol in (("T", "AAPL"), ("Q", "AAPL"), ("Q", "KO"))
    ]
