"""The page as a person uses it: a real browser on a real suite."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.local.clip import Clip
from tests.e2e.browser import ENTER, Driver, Page
from tests.e2e.wire import Wire
from tests.eventually import wait_until
from tests.publish import RtmpPublisher
from tests.sources import TONE_HZ, write_clip
from tests.suite import Suite, passing_condition

OpenPage = Callable[..., Page]
MARKUP = "<img src=x onerror=\"window.pwned='yes'\"><script>window.pwned='yes'</script>"
FRAMES = (
    "return Number(document.querySelector('#preview-image').naturalWidth"
    " || document.querySelector('#preview-video').videoWidth)"
)
# Counts what WebAudio is asked to play and to silence. While `still`, the sound's clock stands, so
# that a short answer cannot end before a person could interrupt it.
LISTEN = """
window.heard = {started: 0, stopped: 0, seconds: 0, still: false};
const {start, stop} = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (...rest) {
  heard.started += 1;
  heard.seconds += this.buffer.duration;
  if (heard.still) this.context.suspend();
  return start.apply(this, rest);
};
AudioBufferSourceNode.prototype.stop = function (...rest) {
  heard.stopped += 1;
  return stop.apply(this, rest);
};
"""
# The server's events pass through `change`, as if a worker had been lost on the way.
LOST_WORKER = """
window.moving = true;
window.begun = [];
const change = (event) => {
  if (event.session_state) event.session_state.moving = window.moving;
  if (event.answer_done) Object.assign(event.answer_done, {resumed: "window", kept: false});
  const again = event.text_delta && window.begun.length === 0;
  if (!again) return [event];
  const {turn} = event.text_delta;
  window.begun.push(turn);
  const void_words = {text_delta: {turn, text: "something else"}};
  return [void_words, {answer_started: {turn, restarted: true}}, event];
};
window.WebSocket = class extends WebSocket {
  set onmessage(handler) {
    super.onmessage = handler && ((message) => {
      for (const event of change(JSON.parse(message.data))) handler({data: JSON.stringify(event)});
    });
  }
};
"""
# The frequency that is loudest in what plays.
LOUDEST = """
const context = new AudioContext();
const analyser = Object.assign(context.createAnalyser(), {fftSize: 8192});
context.createMediaStreamSource(document.querySelector('#preview-video').srcObject).connect(analyser);
window.loudest = () => {
  const found = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(found);
  return found.indexOf(Math.max(...found)) * context.sampleRate / analyser.fftSize;
};
"""
# A second model, in two pools, as if the server had it.
TWO_MODELS = """
const real = window.fetch;
window.fetch = async (path, options) => {
  const reply = await real(path, options);
  if (!String(path).includes("api/info")) return reply;
  const info = await reply.json();
  const pools = [{ name: "gold" }, { name: "small" }];
  info.models.push({ ...info.models[0], name: "two", pools });
  return new Response(JSON.stringify(info));
};
"""
# Text whose contrast is too small.
WEAK_TEXT = """
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = parts(colour).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const [, , , alpha = 1] = parts(getComputedStyle(node).backgroundColor);
    if (alpha === 1) return getComputedStyle(node).backgroundColor;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
for (const node of document.querySelectorAll("header *, main *")) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
  if (!own || !node.checkVisibility() || node.closest("#preview")) continue;
  const pair = [light(getComputedStyle(node).color), light(behind(node))];
  const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (contrast < 4.5) found.push([node.className, node.textContent, contrast]);
}
return found;
"""
SPEAKING = "return document.querySelector('.cancel').checkVisibility()"


@pytest.fixture
def shapes(suite: Suite, clip: Clip) -> dict[str, Any]:
    """A session on a looping clip, live."""
    session = suite.open(clip.path.name, name="shapes")
    wait_for_state(suite, session["id"], "SESSION_STATE_LIVE")
    return session


@pytest.fixture(scope="class")
def live(driver: Driver, suite: Suite, clip: Clip) -> Iterator[Page]:
    """A page on a session that is live. Its console must be free of warnings and errors."""
    session = suite.open(clip.path.name, name="shapes")
    wait_for_state(suite, session["id"], "SESSION_STATE_LIVE")
    page = driver.page()
    page.goto(suite.url)
    page.wait_text("#picture-title", "shapes")
    page.wait_text("#line-state", "connected")
    yield page
    complaints = page.console()
    page.close()
    suite.delete_sessions()
    assert not complaints, "\n".join(complaints)


def wait_for_state(suite: Suite, session: str, state: str, *, processed: int = 1) -> dict[str, Any]:
    """Wait until the gateway reports a session in this state with so many frames understood."""

    def there() -> dict[str, Any] | None:
        found = dict(suite.api("GET", f"api/sessions/{session}"))
        understood = int(found.get("stats", {}).get("frames_processed", 0))
        return found if found["state"] == state and understood >= processed else None

    found = wait_until(there, f"{state} of {processed} frames")
    assert found is not None
    return found


def ask(page: Page, question: str) -> str:
    """Ask and wait for the whole answer; what is written under it."""
    before = len(page.texts(".answer"))
    page.type("#question", question + ENTER)
    return answered(page, before)


def answered(page: Page, before: int) -> str:
    """Wait for the whole answer that comes after so many; what is written under it."""
    page.wait(
        "const all = document.querySelectorAll('.answer');"
        "return all.length > arguments[0] && all[all.length - 1].dataset.state === 'done'",
        before,
    )
    return page.texts(".answer .about")[-1]


def test_it_loads_by_itself_and_says_what_the_model_knows(open_page: OpenPage) -> None:
    page = open_page()
    page.wait_text("#model", "model")
    assert "It can tell" in page.text("#knows")
    assert "It cannot tell" in page.text("#knows")
    page.wait_text("#session-hint", "Nothing is being watched")
    elsewhere = page.run(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(name => new URL(name).origin !== location.origin)"
    )
    assert elsewhere == []


class TestALivePage:
    """What is seen on one page of one session; each test leaves both as it found them, but for what
    was asked."""

    def test_the_session_shows_its_picture_and_its_figures(self, live: Page) -> None:
        live.wait_text("#session-list", "shapes")
        live.wait_text("#picture-state", "live")
        assert live.wait(FRAMES) > 128  # larger than what the model sees
        live.wait("return document.querySelector('#preview-video').currentTime > 1")
        live.wait("return /[1-9]\\d* frames/.test(document.querySelector('#figures').innerText)")
        live.wait("return /[0-9] m?s/.test(document.querySelector('#figures').innerText)")
        drawn = """
        const canvas = document.querySelector('#figures canvas');
        const blank = Object.assign(document.createElement('canvas'),
          {width: canvas.width, height: canvas.height});
        return canvas.toDataURL() !== blank.toDataURL();
        """
        live.wait(drawn)

    def test_the_video_itself_is_played(self, live: Page) -> None:
        live.wait(
            "const v = document.querySelector('#preview-video'); return !v.hidden && v.videoWidth"
        )
        live.wait(
            "return document.querySelector('#preview-video')"
            ".getVideoPlaybackQuality().totalVideoFrames > 20"
        )
        assert live.run("return document.querySelector('#preview-image').hidden")
        assert live.run("return document.querySelector('#full-screen').checkVisibility()")

    def test_an_answer_streams_in_and_says_what_it_saw(self, live: Page) -> None:
        before = len(live.texts(".answer"))
        live.run(
            "window.steps = new Set(); new MutationObserver(() => {"
            " const words = document.querySelectorAll('.answer .words')[arguments[0]];"
            " if (words) window.steps.add(words.textContent);"
            "}).observe(document.querySelector('#chat-room'),"
            " {subtree: true, childList: true, characterData: true})",
            before,
        )
        about = ask(live, "What is in the scene?")
        assert live.texts(".answer .words")[-1]
        assert "first word after" in about
        assert "whole answer" in about
        assert "saw " in about
        assert live.run("return window.steps.size") >= 2  # "" and then word by word
        live.wait_text("#timeline-room .moments", "answered: What is in the scene?")
        live.click(".moment[data-kind=answer]")
        assert live.run("return document.activeElement.matches('.answer')")
        assert f"knew {before + 1} earlier round" in ask(live, "How many objects are there?")

    def test_a_suggested_question_is_one_click(self, live: Page) -> None:
        question = live.text(".chip")
        before = len(live.texts(".answer"))
        live.click(".chip")
        assert "whole answer" in answered(live, before)
        assert live.texts(".question")[-1] == question

    def test_text_stands_out_from_what_is_behind_it(self, live: Page) -> None:
        """WCAG AA: a contrast of 4.5 for all text, in light and dark."""
        ask(live, "How many objects are there?")
        for dark in (False, True):
            live.look(width=1280, height=800, dark=dark)
            assert live.run(WEAK_TEXT) == [], dark
        live.look(width=1280, height=800)

    def test_every_control_has_a_name(self, live: Page) -> None:
        live.type("[name=condition]", "a red circle is there" + ENTER)
        nodes = live.cdp("Accessibility.getFullAXTree")["nodes"]
        controls = {"button", "textbox", "combobox", "switch", "radio", "checkbox", "spinbutton"}
        named = dict.fromkeys((*controls, "img"), 0)
        for node in nodes:
            role = node.get("role", {}).get("value")
            if role in named and not node.get("ignored"):
                assert node.get("name", {}).get("value"), node
                named[role] += 1
        assert named["button"] >= 5
        assert named["switch"] == 1
        assert named["combobox"] + named["textbox"] >= 2
        live.wait_text(".watch-list", "a red circle is there")
        live.click(".watch-list .quiet")

    def test_nothing_is_cut_off_at_any_width(self, live: Page) -> None:
        live.wait(FRAMES)
        for width in (320, 390, 800, 1280):
            live.look(width=width, height=844)
            assert live.run("return document.documentElement.scrollWidth") <= width
            outside = live.run(
                "return [...document.querySelectorAll('button, input')]"
                ".filter(n => n.checkVisibility() && !n.closest('ul'))"
                ".map(n => [n.outerHTML, n.getBoundingClientRect().right])"
                f".filter(([, right]) => right > {width})"
            )
            assert outside == [], width
        live.look(width=1280, height=800)


def test_without_webrtc_there_are_pictures_which_rest_while_the_page_is_hidden(
    open_page: OpenPage, suite: Suite, shapes: dict[str, Any]
) -> None:
    page = open_page()
    page.cdp("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.RTCPeerConnection")
    page.goto(suite.url)
    page.wait(FRAMES)
    count = (
        "return performance.getEntriesByType('resource')"
        ".filter(e => e.name.includes('preview.jpg')).length"
    )
    seen = page.run(count)
    page.wait(f"{count} > {seen} + 2")

    def rests() -> bool:
        before = page.run(count)
        time.sleep(1.5)
        return page.run(count) == before

    with page.hidden():
        wait_until(lambda: page.run("return document.hidden"))
        wait_until(rests, "what was on its way has come, and no more is asked for")
        after = page.run(count)
    page.wait(f"{count} > {after}")


def test_an_answer_that_begins_anew_and_a_session_that_moves_are_said_to(
    open_page: OpenPage, shapes: dict[str, Any], suite: Suite
) -> None:
    page = open_page()
    page.cdp("Page.addScriptToEvaluateOnNewDocument", source=LOST_WORKER)
    page.goto(suite.url)
    page.wait_text("#line-state", "connected")
    page.wait_text("#picture-state", "moving to another worker")
    assert "questions wait" in page.text("#picture-facts")
    page.run(
        "window.told = new Set(); new MutationObserver(() => {"
        " const about = document.querySelector('.answer .about');"
        " if (about) window.told.add(about.textContent);"
        "}).observe(document.querySelector('#chat-room'),"
        " {subtree: true, childList: true, characterData: true})"
    )
    about = ask(page, "What is in the scene?")
    assert page.run("return window.begun.length") == 1
    assert "begun anew, for its worker was lost" in about
    assert any("The answer begins anew" in text for text in page.run("return [...window.told]"))
    assert "something else" not in page.text(".answer .words")
    assert "not stored yet" in page.text(".answer .degraded")
    page.run("window.moving = false")
    page.wait_text("#picture-state", "live")


def test_its_sound_is_heard_by_choice(open_page: OpenPage, suite: Suite) -> None:
    clip = write_clip(suite.media_root / "tone.mp4", seconds=4, width=320, height=240, tone=1)
    suite.open(clip.name, name="tone")
    page = open_page()
    page.wait("return document.querySelector('#sound').checkVisibility()")
    assert page.run("return document.querySelector('#preview-video').muted")
    assert (
        page.run("return document.querySelector('#preview-video').srcObject.getTracks().length")
        == 1
    )
    page.click("#sound")
    page.wait("return document.querySelector('#preview-video').srcObject.getTracks().length === 2")
    page.run(LOUDEST)
    page.wait("return Math.abs(window.loudest() - arguments[0]) < 30", TONE_HZ)
    assert page.run("return document.querySelector('#sound').ariaPressed") == "true"
    page.click("#sound")
    assert page.run("return document.querySelector('#preview-video').muted")


def test_all_sessions_are_seen_at_once(
    open_page: OpenPage, suite: Suite, clip: Clip, shapes: dict[str, Any]
) -> None:
    other = suite.open(clip.path.name, name="another", loop=True)
    wait_for_state(suite, other["id"], "SESSION_STATE_LIVE")
    page = open_page()
    page.wait("return document.querySelector('#grid-open').checkVisibility()")
    page.type("[name=condition]", passing_condition(clip) + ENTER)
    page.wait_text(".events", "it became true")
    page.run("document.querySelector('#grid-open').focus()")
    page.type("#grid-open", ENTER)
    page.wait(
        "const all = [...document.querySelectorAll('#grid .shot img')];"
        "return all.length === 2 && all.every(image => image.naturalWidth > 100)"
    )
    before = page.run("return document.querySelector('#grid .shot img').src")
    page.wait("return document.querySelector('#grid .shot img').src !== arguments[0]", before)
    page.wait_text("#grid-list", passing_condition(clip))
    assert "live" in page.texts("#grid .badge")
    for width in (320, 768, 1920):
        page.look(width=width, height=800)
        assert page.run("return document.querySelector('#grid').scrollWidth") <= width
    (place,) = page.run(
        "return [...document.querySelectorAll('#grid li')].map((n, i) => [n.innerText, i])"
        ".filter(([text]) => text.startsWith('another')).map(([, i]) => i + 1)"
    )
    page.type(f"#grid li:nth-child({place}) button", ENTER)
    page.wait_text("#picture-title", "another")
    assert not page.run("return document.querySelector('#grid').open")


def test_text_is_never_markup(open_page: OpenPage, suite: Suite, clip: Clip) -> None:
    suite.open(clip.path.name, name=MARKUP[:80])
    page = open_page()
    page.wait_text("#picture-title", "<img src=x")
    page.wait_text("#session-list", "<img src=x")
    ask(page, MARKUP)
    assert page.text(".question") == MARKUP
    page.type("[name=condition]", MARKUP + ENTER)
    page.wait_text("#watches-room", MARKUP)
    assert page.run("return document.querySelectorAll('main img[src=x], main script').length") == 0
    assert page.run("return window.pwned ?? 'no'") == "no"


def test_a_watch_fires_and_is_removed(
    open_page: OpenPage, shapes: dict[str, Any], clip: Clip
) -> None:
    condition = passing_condition(clip)
    page = open_page()
    page.wait_text("#line-state", "connected")
    page.type("[name=condition]", condition + ENTER)
    page.wait_text(".watch-list", condition)
    page.wait_text(".events", "it became true")
    page.wait_text(".events", "it is no longer true")
    page.wait_text(".stands", "% yes")
    assert page.text(".watch-list .degraded") == ""
    assert f"now: {condition}" in page.text("#timeline-room .moments")
    page.type("[name=condition]", "a zeppelin is there" + ENTER)
    page.wait_text(".watch-list .degraded", "does not know “zeppelin”: it only guesses")
    page.click(".watch-list .quiet")
    page.click(".watch-list .quiet")
    page.wait("return document.querySelectorAll('.watch-list > li').length === 0")


def test_the_camera_is_published_and_stopped(open_page: OpenPage, suite: Suite) -> None:
    page = open_page()
    page.wait_text("#camera", "Use my camera")
    page.click("#camera")
    page.wait_text("#camera", "Stop my camera")
    page.wait_text("#picture-state", "live")
    (session,) = suite.api("GET", "api/sessions")["sessions"]
    assert session["source_kind"] == "whip"
    live = wait_for_state(suite, session["id"], "SESSION_STATE_LIVE", processed=10)
    assert live["stats"]["source_width"] >= 320
    page.wait(FRAMES)
    assert "whole answer" in ask(page, "What is in the scene?")
    page.click("#camera")
    page.wait_text("#camera", "Use my camera")
    wait_for_state(suite, session["id"], "SESSION_STATE_STALLED")
    page.wait_text("#picture-state", "publisher left")


def test_a_closed_page_ends_its_publication(open_page: OpenPage, suite: Suite) -> None:
    page = open_page()
    page.click("#camera")
    page.wait_text("#picture-state", "live")
    (session,) = suite.api("GET", "api/sessions")["sessions"]

    def goodbyes() -> list[str]:
        told = (
            each for each in suite.gateway.log_entries() if "WHIP publisher left" in each["message"]
        )
        return [each["reason"] for each in told]

    before = len(goodbyes())
    page.goto("about:blank")
    wait_for_state(suite, session["id"], "SESSION_STATE_STALLED")
    wait_until(lambda: len(goodbyes()) > before)
    assert goodbyes()[before:] == ["publisher_left"], "one that falls silent is idle"


def test_the_line_comes_back_with_its_conversation(
    open_page: OpenPage, shapes: dict[str, Any], wire: Wire
) -> None:
    page = open_page(wire.url, expected=("WebSocket", "ERR_", "Failed to load"))
    page.wait_text("#line-state", "connected")
    ask(page, "What is in the scene?")
    page.type("[name=condition]", "a red circle is there" + ENTER)
    wire.cut()
    page.wait_text("#line-state", "connection lost")
    page.type("#question", "How many objects are there?" + ENTER)  # asked into the void
    wire.mend()
    page.wait_text("#line-state", "connected")
    page.wait("return document.querySelectorAll('.answer[data-state=done]').length === 2")
    assert "knew 1 earlier round" in page.texts(".answer .about")[-1]
    assert len(page.texts(".watch-list > li")) == 1
    assert page.text(".watch-form + .error") == ""


def test_a_session_removed_elsewhere_is_said_to_be(
    open_page: OpenPage, suite: Suite, shapes: dict[str, Any]
) -> None:
    # Its video may be asked for at that moment.
    page = open_page(expected=("WebSocket", "404", "/whep/"))
    page.wait_text("#line-state", "connected")
    suite.api("DELETE", f"api/sessions/{shapes['id']}")
    page.wait_text("#notices", "has been removed")
    page.wait_text("#picture-title", "No session chosen")
    assert page.texts("#session-list li") == []


def test_a_session_is_made_and_removed_on_the_page(
    open_page: OpenPage, suite: Suite, clip: Clip
) -> None:
    page = open_page(expected=("400", "404"))
    page.click("#new-session")
    page.type("#new-source", "../../etc/passwd" + ENTER)
    page.wait("return document.querySelector('#new-error').innerText.length > 10")
    page.run("document.querySelector('#new-source').value = ''")
    page.type("#new-source", clip.path.name)
    page.type("#new-name", "my clip" + ENTER)
    page.wait_text("#picture-title", "my clip")
    page.wait_text("#picture-state", "live")
    page.click("#session-list .remove")
    page.click("#confirm-dialog [value=no]")
    assert page.texts("#session-list li") != []
    page.click("#session-list .remove")
    page.click("#confirm-yes")
    page.wait("return document.querySelectorAll('#session-list li').length === 0")
    assert suite.api("GET", "api/sessions").get("sessions", []) == []


# Holds a file over the page and lets it go there.
DROP = """
const [name, base64] = arguments;
const bytes = Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], name));
const event = (kind) => new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true});
document.body.dispatchEvent(event("dragover"));
const shown = getComputedStyle(document.body, "::after").content;
document.body.dispatchEvent(event("drop"));
return shown;
"""


def test_a_file_that_is_dropped_on_the_page_is_watched(
    open_page: OpenPage, suite: Suite, clip: Clip
) -> None:
    page = open_page(expected=("400", "404"))
    page.wait("return !document.querySelector('#upload').hidden")
    video = base64.b64encode(clip.path.read_bytes()).decode()
    assert "Drop the video here" in page.run(DROP, "my <clip>.mp4", video)
    page.wait_text("#picture-title", "my <clip>.mp4")
    page.wait_text("#picture-state", "live")
    page.wait(FRAMES)
    page.run(DROP, "notes.txt", base64.b64encode(b"no video").decode())
    page.wait_text("#notices", "notes.txt: ")
    page.click("#session-list .remove")
    page.click("#confirm-yes")
    page.wait("return document.querySelectorAll('#session-list li').length === 0")


def test_a_model_is_chosen_where_there_are_several(
    open_page: OpenPage, suite: Suite, clip: Clip
) -> None:
    page = open_page(expected=("404",))
    page.click("#new-session")
    assert page.run("return document.querySelector('#new-models').hidden"), "there is one"
    page.cdp("Page.addScriptToEvaluateOnNewDocument", source=TWO_MODELS)
    page.goto(suite.url)
    page.wait_text("#model", "model")
    page.click("#new-session")
    page.wait("return document.querySelectorAll('#new-model option').length > 2")
    [first, ours, *pools] = page.texts("#new-model option")
    assert (first, pools) == ("the server chooses", ["gold (two)", "small (two)"])
    page.run("document.querySelector('#new-model').value = 'gold'")
    page.type("#new-source", clip.path.name + ENTER)
    page.wait_text("#new-error", f"There is no model or pool 'gold': there is {ours}")


def test_the_addresses_of_a_push_session_work(open_page: OpenPage, clip: Clip) -> None:
    page = open_page()
    page.click("#new-session")
    page.click("[name=kind][value=push]")
    page.type("#new-name", "door" + ENTER)
    page.wait_text("#new-addresses", "Publish to door")
    addresses = page.run(
        "return [...document.querySelectorAll('#new-addresses input')].map(n => n.value)"
    )
    server, key = addresses[0], addresses[1]
    clipboard = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.cdp("Browser.grantPermissions", permissions=clipboard)
    page.click("#new-addresses .address:nth-of-type(2) button")
    assert page.wait("return navigator.clipboard.readText()") == key
    page.cdp("Browser.resetPermissions")
    page.click("#new-addresses .primary")
    with RtmpPublisher(clip.path, f"{server}/{key}"):
        page.wait_text("#picture-state", "live")
        page.wait(FRAMES)


def test_answers_are_spoken_and_stop_at_once(open_page: OpenPage, shapes: dict[str, Any]) -> None:
    page = open_page()
    page.run(LISTEN)
    page.wait_text("#line-state", "connected")
    page.click(".switch")
    page.wait_text("#line-state", "connected")

    ask(page, "What is in the scene?")
    page.wait("return heard.started > 0 && heard.seconds > 0.2")
    page.wait(f"return !(() => {{ {SPEAKING} }})()")  # spoken to its end
    assert page.run("return heard.stopped") == 0

    page.run("heard.still = true; heard.started = 0")
    ask(page, "What is in the scene?")
    page.wait("return heard.started > 0")
    assert page.run(SPEAKING)
    page.click(".cancel")
    assert page.run("return heard.stopped === heard.started")
    assert not page.run(SPEAKING)

    page.run("heard.started = heard.stopped = 0")
    ask(page, "What is in the scene?")
    page.wait("return heard.started > 0")
    assert page.run("return heard.stopped") == 0
    page.click(".chip")  # barging in
    assert page.run("return heard.stopped > 0")
