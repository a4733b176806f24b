"""A headless Chromium that tests look at pages with, spoken to over its pipe (--remote-debugging-pipe).

The protocol is https://chromedevtools.github.io/devtools-protocol/. A pipe needs no further package and no port.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE_S = 120


def find() -> str | None:
    """The program; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser process. Each `open` shows a page in a new tab."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self.to = os.pipe()
        self.of, theirs_out = os.pipe()
        command = [find() or NAMES[0], *_FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"]
        # The browser reads file descriptor 3 and writes 4; a shell puts them there, whatever numbers they have here.
        pipes = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", pipes, "sh", *command], pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.rest, self.events = 0, b"", []

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.of)
        self.profile.cleanup()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result. Events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        os.write(self.to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)
        raise TimeoutError(f"{method}: no answer")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.of, 1 << 20)
            if not more:
                raise RuntimeError("Chromium has ended")
            self.rest += more
        first, _, self.rest = self.rest.partition(b"\0")
        return json.loads(first)

    def open(self, file: Path, width: int = 1280, scripts: bool = True, media: str = "", dark: bool = False) -> Tab:
        """Show a file.

        Args:
            file: the page.
            width: of the window, in CSS pixels.
            scripts: whether the page's scripts run.
            media: "print", or "" for a screen.
            dark: whether the reader prefers dark colours.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        tab.call("Emulation.setEmulatedMedia", media=media, features=scheme)
        tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        tab.call("Page.navigate", url=file.resolve().as_uri())
        tab.wait()
        return tab


class Tab:
    """A page that is shown."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol for this page."""
        return self.browser.call(method, self.session, **parameters)

    def wait(self) -> None:
        """Wait until the page is loaded."""
        until = time.monotonic() + _PATIENCE_S
        while not any(e.get("method") == "Page.loadEventFired" for e in self.of_page()):
            if time.monotonic() > until:
                raise TimeoutError("the page does not load")
            self.evaluate("1")
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which the page's policy does not hinder."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key: "Tab", "Enter" or " "."""
        text = {"Enter": "\r", " ": " "}.get(key)
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        about: dict[str, Any] = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": codes[key],
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element."""
        x, y = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'center'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def of_page(self) -> list[dict[str, Any]]:
        """The events of this page until now."""
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def complaints(self) -> list[str]:
        """What the console says: errors, warnings, what the policy has refused."""
        self.evaluate("1")  # events that have come meanwhile are read
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.of_page() if event["method"] in kinds]

    def requests(self) -> list[str]:
        """The addresses that the page has asked for, without itself and what is inside it."""
        self.evaluate("1")
        sent = [e["params"]["request"]["url"] for e in self.of_page() if e["method"] == "Network.requestWillBeSent"]
        own = self.evaluate("location.href.split('#')[0]")
        return [url for url in sent if not url.startswith("data:") and url.split("#")[0] != own]

    def too_wide(self) -> list[str]:
        """The elements that stick out of the window to the right and do not lie in a box that scrolls."""
        return self.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => !e.parentElement.closest('.box') &&"
            " e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)"
            ".map(e => e.outerHTML.slice(0, 80)).concat(document.documentElement.scrollWidth >"
            " document.documentElement.clientWidth ? ['the page scrolls sideways'] : [])"
        )

    def picture(self, file: Path) -> None:
        """Write a picture of the whole page."""
        import base64

        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12_000), "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Close the tab."""
        self.browser.call("Target.closeTarget", targetId=self.target)
