"""The talk with Polygon's stream, step by step, without a socket."""

from __future__ import annotations

import json

import pytest

from market_pipelines.streaming.dialogue import EndKind, Turn
from market_pipelines.streaming.feeds.massive_dialogue import Entitlements, MassiveDialogue
from market_pipelines.streaming.plan import AssetClass, Channel

WANTED = {Channel.QUOTES: ("AAPL", "MSFT"), Channel.TRADES: ("AAPL", "MSFT")}


class Talk:
    """A dialogue, and a provider that says what a test makes it say."""

    def __init__(self, entitlements: Entitlements | None = None) -> None:
        self.dialogue = MassiveDialogue("KEY", AssetClass.STOCKS, entitlements or Entitlements())
        self.dialogue.want(WANTED)
        self.now = 100.0
        self.dialogue.opened(self.now)

    def says(self, status: str, *messages: str) -> Turn:
        events = [{"ev": "status", "status": status, "message": one} for one in messages or ("",)]
        return self.dialogue.heard(json.dumps(events).encode(), self.now)

    def log_in(self) -> Turn:
        self.says("connected")
        return self.says("auth_success")

    def acknowledges(self, turn: Turn) -> Turn:
        return self.says("success", *(f"subscribed to: {topic}" for topic in topics(turn)))

    def settle(self) -> None:
        turn = self.log_in()
        while topics(turn):
            turn = self.acknowledges(turn)


def topics(turn: Turn) -> list[str]:
    requests = [json.loads(text) for text in turn.say]
    return [one for request in requests if request["action"] == "subscribe" for one in request["params"].split(",")]


def test_the_key_is_sent_after_the_greeting_and_not_before() -> None:
    talk = Talk()
    assert talk.dialogue.due(101.0).say == ()
    assert talk.says("connected").say == ('{"action":"auth","params":"KEY"}',)
    assert talk.says("connected").say == ()


def test_one_channel_is_asked_for_after_the_other() -> None:
    talk = Talk()
    first = talk.log_in()
    assert topics(first) == ["T.AAPL", "T.MSFT"]
    assert topics(talk.says("success", "subscribed to: T.AAPL")) == []
    second = talk.says("success", "subscribed to: T.MSFT")
    assert topics(second) == ["Q.AAPL", "Q.MSFT"]
    assert not talk.dialogue.settled
    last = talk.acknowledges(second)
    assert talk.dialogue.settled
    assert [(one.status, one.detail) for one in last.notices] == [("subscribed", "trades of 2, quotes of 2")]


@pytest.mark.parametrize("greeted", [False, True])
def test_a_provider_that_says_nothing_is_left(greeted: bool) -> None:
    talk = Talk()
    if greeted:
        talk.says("connected")
    ending = talk.dialogue.due(110.5).ending
    assert ending is not None
    assert ending.kind is EndKind.FAULT
    assert ("answer to the key" if greeted else "greeting") in ending.reason


def test_a_refusal_without_a_name_means_the_channel_that_was_asked_for() -> None:
    entitlements = Entitlements()
    talk = Talk(entitlements)
    talk.log_in()
    assert topics(talk.says("error", "not authorized")) == []
    assert entitlements.refused == {Channel.TRADES}
    assert topics(talk.dialogue.due(talk.now + 0.6)) == ["Q.AAPL", "Q.MSFT"], "no second refusal came"
    assert [one.channel for one in talk.dialogue.watched()] == [Channel.QUOTES]


def test_a_refusal_of_each_topic_is_not_taken_for_one_of_the_next_channel() -> None:
    entitlements = Entitlements()
    talk = Talk(entitlements)
    talk.log_in()
    turn = talk.says("error", "not authorized", "not authorized")
    assert entitlements.refused == {Channel.TRADES}
    assert topics(turn) == ["Q.AAPL", "Q.MSFT"]
    assert [one.status for one in turn.notices] == ["not_authorized"]


def test_a_refusal_with_a_name_means_that_channel() -> None:
    entitlements = Entitlements()
    talk = Talk(entitlements)
    first = talk.log_in()
    assert topics(talk.says("error", "not authorized: Q.AAPL")) == []
    assert entitlements.refused == {Channel.QUOTES}
    talk.acknowledges(first)
    assert talk.dialogue.settled


def test_what_one_connection_learned_of_the_plan_the_others_know() -> None:
    entitlements = Entitlements()
    Talk(entitlements).says("error", "not authorized: T.AAPL")
    assert topics(Talk(entitlements).log_in()) == ["Q.AAPL", "Q.MSFT"]


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("auth_failed", "authentication failed", EndKind.REFUSED),
        ("auth_failed", "Your plan doesn't include websocket access.", EndKind.REFUSED),
        ("auth_timeout", "", EndKind.FAULT),
        ("auth_required", "", EndKind.FAULT),
        ("force_disconnect", "", EndKind.FAULT),
        ("max_connections", "Maximum number of websocket connections exceeded.", EndKind.CROWDED),
        ("slow_consumer", "", None),
        ("error", "bad params", None),
        ("something_new", "", None),
    ],
)
def test_what_a_status_leads_to(status: str, message: str, kind: EndKind | None) -> None:
    talk = Talk()
    talk.settle()
    turn = talk.says(status, message)
    assert (turn.ending.kind if turn.ending else None) is kind
    assert not turn.data


def test_unanswered_topics_are_named_once_and_the_next_channel_has_its_turn() -> None:
    talk = Talk()
    talk.log_in()
    talk.says("success", "subscribed to: T.MSFT")
    assert talk.dialogue.due(104.9).say == ()
    turn = talk.dialogue.due(105.1)
    assert "1 of 2 topics of trades were not acknowledged within 5 s: T.AAPL" in turn.notices[0].detail
    assert topics(turn) == ["Q.AAPL", "Q.MSFT"]


def test_another_wish_sends_only_what_differs() -> None:
    talk = Talk()
    talk.settle()
    talk.dialogue.want({Channel.TRADES: ("AAPL", "IBM")})
    assert not talk.dialogue.settled
    turn = talk.dialogue.due(101.0)
    assert [json.loads(text) for text in turn.say] == [
        {"action": "unsubscribe", "params": "T.MSFT"},
        {"action": "subscribe", "params": "T.IBM"},
    ]
    rest = talk.says("success", "unsubscribed to: T.MSFT", "subscribed to: T.IBM")
    assert [json.loads(text) for text in rest.say] == [{"action": "unsubscribe", "params": "Q.AAPL,Q.MSFT"}]
    assert talk.dialogue.settled


def test_the_same_wish_changes_nothing() -> None:
    talk = Talk()
    talk.settle()
    talk.dialogue.want({channel: tuple(reversed(symbols)) for channel, symbols in WANTED.items()})
    assert talk.dialogue.settled


def test_a_new_connection_asks_for_everything_again() -> None:
    talk = Talk()
    talk.settle()
    talk.dialogue.opened(200.0)
    assert not talk.dialogue.settled
    assert talk.dialogue.watched() == ()
    assert topics(talk.log_in()) == ["T.AAPL", "T.MSFT"]


def test_everything_is_one_topic_and_its_symbols_are_not_counted() -> None:
    talk = Talk()
    talk.dialogue.want({Channel.TRADES: ("*",)})
    assert topics(talk.log_in()) == ["T.*"]
    assert [one.symbols for one in talk.dialogue.watched()] == [None]


def test_thousands_of_topics_travel_in_several_requests() -> None:
    talk = Talk()
    talk.dialogue.want({Channel.TRADES: [f"SYM{number}" for number in range(5_000)]})
    turn = talk.log_in()
    assert len(turn.say) > 1
    assert len(topics(turn)) == 5_000
    assert max(map(len, turn.say)) < 10_000


@pytest.mark.parametrize(
    ("raw", "channel"),
    [
        (b'[{"ev":"T","sym":"A"}]', Channel.TRADES),
        (b'[{"ev": "Q", "sym": "T"}]', Channel.QUOTES),
        (b'[{"sym":"Q","ev":"AM"}]', Channel.MINUTES),
        (b'[{"ev":"A","sym":"AM"}]', Channel.SECONDS),
        (b'[{"ev":"LULD","T":"T"}]', Channel.LULD),
    ],
)
def test_bytes_tell_the_channels_that_they_hold(raw: bytes, channel: Channel) -> None:
    found = {one for one, marker in MassiveDialogue.markers.items() if marker is not None and marker.within(raw)}
    assert found == {channel}
