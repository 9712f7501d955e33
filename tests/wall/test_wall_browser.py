"""The wall in a real browser: what a person sees, reads out, types and is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from wall_world import TOKEN, TOPICS, alert, evidence, face, make_topics, publish, score, served, until

from difffake.results import Level
from stream.broker.contract import TopicPartition
from stream.broker.memory import MemoryBroker
from stream.messages import AlertState, Command, CommandRecord, Status, decode_enrolment
from stream.wall.access import Operators
from stream.wall.server import WallServer
from stream.wall.settings import WallSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=60_000)
pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
#: A stream that is looked at stays clean for a long time, so that a slow machine changes nothing.
PATIENT = WallSettings(looked_s=600.0, behind_s=600.0, retry_s=0.2)
RULES = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
STRONG = face(identity=evidence(0.0004, Level.STRONG))


@contextmanager
def opened(browser: Browser, server: WallServer, **how: Any) -> Iterator[Page]:
    """A page of the wall; errors in it, and what its policy had to forbid, fail the test."""
    wrong: list[str] = []
    with browser.new_context(**how) as context:
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if "Content Security" in line.text else None)
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector(".tile")
        yield page
    assert not wrong


def names(page: Page) -> list[str]:
    """Of the tiles that are shown, in order."""
    return page.locator(".tile:not([hidden]) .name").all_text_contents()


def states(page: Page) -> list[str]:
    return page.locator(".tile:not([hidden]) .state").all_text_contents()


def test_sixty_four_live_streams(chromium: Browser) -> None:
    with served(settings=PATIENT) as (server, broker):
        ids = [f"channel-{number}" for number in range(1, 63)] + [HOSTILE, "x" * 1000]
        publish(broker, *(score(name) for name in ids))
        publish(broker, score("channel-7", None, STRONG), score("channel-9", status=Status.SHED))
        publish(broker, alert(stream="channel-3", sentence=HOSTILE))
        until(lambda: server.wall.alert_of("1") is not None)
        with opened(chromium, server) as page:
            expect(page.locator(".tile")).to_have_count(64)
            assert page.title() == "(1) DiffFake wall"
            assert sorted(names(page)) == sorted(ids), "every id is text, whatever is in it"
            assert names(page)[1:4] == ["channel-1", "channel-2", "channel-3"], "in the order of their numbers"
            assert page.locator("[data-count=all]").inner_text() == "64"
            assert page.locator("[data-count=alert]").inner_text() == "1"
            assert page.locator("[data-count=suspicious]").inner_text() == "1"
            assert page.locator(".alert .sentence").inner_text() == HOSTILE
            assert page.locator(".alert code").inner_text().startswith("difffake replay --from-score difffake.scores:")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing scrolls sideways"

            # What is said changes in place, and alerts are read out.
            tile = page.locator(".tile", has_text="channel-5").nth(0)
            assert tile.locator(".state").inner_text() == "clean"
            publish(broker, score("channel-5", None, STRONG), alert(2, stream="channel-8"))
            expect(page.locator("#live")).to_contain_text("Alert on channel-8")
            expect(page.locator("[data-count=alert]")).to_have_text("2")
            expect(page.locator("[data-count=suspicious]")).to_have_text("2")
            publish(broker, alert(2, AlertState.CLOSED, stream="channel-8"))
            expect(page.locator("#alerts-open > li")).to_have_count(1)
            assert page.locator("#closed-count").inner_text() == "1"


def test_keyboard_search_and_filter(chromium: Browser) -> None:
    with served(settings=PATIENT) as (server, broker):
        publish(broker, *(score(name, None, face(name="Ada" if name == "c" else None)) for name in "abc"))
        publish(broker, score("d", status=Status.DECODE_ERROR), score("e", None, STRONG))
        until(lambda: server.wall.has("e"))
        with opened(chromium, server) as page:
            expect(page.locator(".tile")).to_have_count(5)
            for key, focused in (("j", "a"), ("j", "b"), ("j", "c"), ("k", "b")):
                page.keyboard.press(key)
                assert page.evaluate("document.activeElement.textContent") == focused
            page.keyboard.press("Enter")
            assert page.locator("#detail").is_visible()
            assert page.locator("#detail-title").inner_text() == "b"
            page.keyboard.press("Escape")
            assert not page.locator("#detail").is_visible()
            assert page.evaluate("document.activeElement.textContent") == "b", "the focus goes back to where it was"

            page.keyboard.press("/")
            page.keyboard.type("ada j")
            assert names(page) == []
            assert page.locator("#tiles-none").is_visible()
            page.keyboard.press("Backspace")
            page.keyboard.press("Backspace")
            assert names(page) == ["c"], "people are found, too, and keys are letters while one types"
            page.keyboard.press("Escape")
            assert names(page) == list("abcde")

            page.get_by_role("radio", name="Not looking").check()
            assert (names(page), states(page)) == (["d"], ["not looking"])
            expect(page.locator(".tile:visible .reason")).to_contain_text("damaged video")
            page.keyboard.press("Escape")
            page.get_by_label("Order").select_option("worst")
            assert names(page)[:2] == ["e", "d"]
            page.get_by_label("Order").press("?")
            assert not page.locator("#help").is_visible(), "not while one chooses"
            page.locator("#streams-title").focus()
            page.keyboard.press("?")
            assert page.locator("#help").is_visible()
            page.keyboard.press("Escape")
            assert not page.locator("#help").is_visible()


def test_nothing_is_clean_that_cannot_be_known(chromium: Browser) -> None:
    with served(settings=PATIENT) as (server, broker):
        publish(broker, score("a"), score("b"))
        until(lambda: server.wall.has("b"))
        with opened(chromium, server) as page:
            expect(page.locator("[data-count=clean]")).to_have_text("2")
            broker.disconnect()
            expect(page.locator("#banner")).to_contain_text("Not connected to Kafka")
            assert set(states(page)) == {"not looking"}
            broker.reconnect()
            publish(broker, score("a"), score("b"))
            expect(page.locator("[data-count=clean]")).to_have_text("2")
            expect(page.locator("#banner")).to_be_hidden()

            # The wall itself goes: the page must find out by itself.
            page.context.set_offline(True)
            server.hub.close()
            expect(page.locator("#banner")).to_contain_text("Not connected to the wall since")
            assert set(states(page)) == {"not looking"}
            assert page.locator("[data-count=clean]").inner_text() == "0"


def test_an_operator_acknowledges_and_freezes(chromium: Browser) -> None:
    with served(settings=PATIENT, operators=Operators({"ada": TOKEN})) as (server, broker):
        publish(broker, score("a"), alert(stream="a"))
        until(lambda: server.wall.alert_of("1") is not None)

        def sent() -> list[Any]:
            reader, partition = broker.reader(), TopicPartition(TOPICS.enrolments, 0)
            return [
                decode_enrolment(record.value or b"")
                for record in reader.read(partition, None, reader.end_offset(partition))
            ]

        with opened(chromium, server) as page:
            assert not page.get_by_role("button", name="Acknowledge").is_visible(), "not without a token"
            page.get_by_role("button", name="Operator").click()
            page.get_by_label("Token").fill("not the token of anybody")
            page.get_by_role("button", name="Use it").click()
            page.get_by_text("that is no operator's token").wait_for()
            page.get_by_label("Token").fill(TOKEN)
            page.get_by_role("button", name="Use it").click()
            page.get_by_role("button", name="Operator: ada").wait_for()
            page.get_by_role("button", name="Acknowledge").click()
            page.locator(".answer", has_text="sent as").wait_for()
            publish(broker, alert(state=AlertState.UPDATED, stream="a", acknowledged_by="ada (wall)"))
            page.get_by_text("acknowledged by ada (wall)").wait_for()
            assert not page.get_by_role("button", name="Acknowledge").is_visible()

            page.get_by_role("button", name="Show stream").click()
            page.get_by_label("Who").select_option("person 0")
            page.get_by_role("button", name="Freeze anchor").click()
            page.locator("#detail-answer", has_text="sent as").wait_for()
            page.get_by_role("button", name="Reset anchor").click()
            page.get_by_text("Press again").wait_for()
            assert [record.command for record in sent()] == [Command.ALERT_ACKNOWLEDGE, Command.FREEZE]
            page.get_by_role("button", name="Reset anchor").click()
            until(lambda: len(sent()) == 3)
            assert sent()[1].person == 0
            assert sent()[2].command is Command.RESET
            assert TOKEN not in page.evaluate("JSON.stringify([localStorage, sessionStorage, location.href])")


def test_what_is_done_is_done_to_whom_it_was_meant_for(chromium: Browser) -> None:
    with served(settings=PATIENT, operators=Operators({"ada": TOKEN})) as (server, broker):
        publish(broker, score("alpha", 1000.0, face(0), face(3)), score("beta", 1000.0))
        until(lambda: server.wall.has("beta"))
        with opened(chromium, server) as page:
            page.get_by_role("button", name="Operator").click()
            page.get_by_label("Token").fill(TOKEN)
            page.get_by_role("button", name="Use it").click()
            page.get_by_role("button", name="Operator: ada").wait_for()

            # Asked on one stream is not asked on another, nor of somebody else.
            page.get_by_role("button", name="alpha").click()
            page.get_by_role("button", name="Reset anchor").click()
            page.get_by_text("Press again").wait_for()
            page.keyboard.press("Escape")
            page.get_by_role("button", name="beta").click()
            page.get_by_role("button", name="Reset anchor").click()
            page.get_by_text("Press again").wait_for()
            page.get_by_label("Who").select_option("person 0")
            page.get_by_role("button", name="Reset anchor").click()
            page.get_by_text("Press again").wait_for()
            page.keyboard.press("Escape")

            # Who was chosen and has left stays chosen.
            page.get_by_role("button", name="alpha").click()
            page.get_by_label("Who").select_option("person 3")
            publish(broker, *(score("alpha", 1000.0 + second, face(0)) for second in range(1, 70)))
            expect(page.get_by_label("Who").locator("option:checked")).to_have_text("person 3, not seen lately")
            page.get_by_role("button", name="Mute alerts").click()
            page.locator("#detail-answer", has_text="sent as").wait_for()

            # A threshold that is none is not sent, and no default in its place.
            for typed in ("0", "1e"):
                page.get_by_label("False alerts a day").fill("")
                page.get_by_label("False alerts a day").press_sequentially(typed)
                page.get_by_role("button", name="Set threshold").click()
                page.locator("#detail-answer", has_text="Nothing was sent").wait_for()
            page.get_by_label("False alerts a day").fill("")
            page.get_by_role("button", name="Set threshold").click()
            page.locator("#detail-answer", has_text="sent as").wait_for()

            reader, partition = broker.reader(), TopicPartition(TOPICS.enrolments, 0)
            sent = [
                decode_enrolment(r.value or b"") for r in reader.read(partition, None, reader.end_offset(partition))
            ]
            assert [(one.stream, one.command, one.person) for one in sent if isinstance(one, CommandRecord)] == [
                ("alpha", Command.ALERT_MUTE, 3),
                ("alpha", Command.ALERT_BUDGET, None),
            ]


def test_a_dialog_that_outlives_its_wall_is_no_other_streams(chromium: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    before, after = MemoryBroker(), MemoryBroker()
    for broker, order in ((before, "abc"), (after, "cba")):
        make_topics(broker)
        publish(broker, *(score(name) for name in order))
    with WallServer(lambda: before, address, settings=PATIENT) as server:
        until(lambda: server.wall.has("c"))
        page = (context := chromium.new_context()).new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_role("button", name="a", exact=True).click()
        assert page.locator("#detail-title").inner_text() == "a"
    with WallServer(lambda: after, address, settings=PATIENT) as server:
        until(lambda: server.wall.has("a"))
        expect(page.locator("#detail")).to_be_hidden()
        expect(page.locator(".tile")).to_have_count(3)
        assert names(page) == list("abc")
    context.close()


@pytest.mark.parametrize(
    "how",
    [
        {"color_scheme": "light", "viewport": {"width": 1600, "height": 1000}},
        {"color_scheme": "dark", "viewport": {"width": 1600, "height": 1000}},
        {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    ],
    ids=["light", "dark", "phone"],
)
def test_everybody_can_use_it(chromium: Browser, how: dict[str, Any]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with served(settings=PATIENT, operators=Operators({"ada": TOKEN})) as (server, broker):
        publish(broker, score("clean"), score("suspicious", None, STRONG), score("alert"), alert(stream="alert"))
        publish(broker, score("shed", status=Status.SHED), score("nobody", status=Status.NO_FACE))
        publish(broker, alert(2, AlertState.CLOSED, stream="clean"))
        until(lambda: server.wall.alert_of("2") is not None)
        with opened(chromium, server, **how) as page:
            expect(page.locator(".tile")).to_have_count(5)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

            def check(where: str) -> None:
                found = axe.run(page, options={"runOnly": RULES})
                assert found.response["passes"], "the rules were applied"
                assert found.violations_count == 0, f"{where}: {found.generate_report()}"

            check("the wall")
            page.locator(".tile .name").first.click()
            check("details")
            page.keyboard.press("Escape")
            page.get_by_role("button", name="Help").click()
            check("help")


def test_long_ids_that_begin_alike_are_told_apart(chromium: Browser) -> None:
    ids = [f"broadcast-centre-north/building-12/floor-3/studio-camera-{n:04}" for n in (17, 18)]
    with served(settings=PATIENT) as (server, broker):
        publish(broker, *map(score, ids), score("short"))
        with opened(chromium, server, viewport={"width": 1600, "height": 1000}) as page:
            expect(page.locator(".tile")).to_have_count(3)
            assert sorted(names(page)) == [*ids, "short"]
            for name in ids:
                tile = page.get_by_role("button", name=name, exact=True)
                begin, end = tile.locator(".begin"), tile.locator(".end")
                assert begin.evaluate("node => node.scrollWidth > node.clientWidth"), "it is too long"
                inner, outer = end.bounding_box(), tile.bounding_box()
                assert inner is not None
                assert outer is not None
                assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1
                assert end.text_content() == name[-12:]


def test_an_alert_stands_out_where_colours_are_forced(chromium: Browser) -> None:
    with served(settings=PATIENT) as (server, broker):
        publish(broker, score("clean"), score("alert"), alert(stream="alert"))
        with opened(chromium, server, forced_colors="active") as page:
            expect(page.locator("article[data-state=alert]")).to_have_count(1)
            looks = {
                state: page.locator(f"article[data-state={state}] > header").evaluate(
                    "node => [getComputedStyle(node).backgroundColor, getComputedStyle(node).color]"
                )
                for state in ("clean", "alert")
            }
            assert looks["alert"][0] not in (looks["clean"][0], looks["alert"][1])
