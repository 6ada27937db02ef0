"""A headless Chromium for the tests of pages.

Debian's packages chromium and chromium-driver, or Google Chrome with its driver. Nothing is
downloaded: Selenium gets the paths of both programs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Browser:
    """Pages in a window of a chosen size and theme."""

    driver: object

    def open(self, path, width=1280, height=900, theme="light"):
        """Open a file, and forget what was logged before."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for kind in ("performance", "browser"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri())

    def run(self, script, *arguments):
        """Run JavaScript and return its result."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return [each.text for each in self.driver.find_elements("css selector", selector)]

    def complaints(self):
        """Errors, and violations of the content security policy, since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Addresses that were asked for since the page was opened, this page included."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e["params"] for e in entries if e["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]

    def overflow(self):
        """Pixels by which the page is wider than its window."""
        return self.run("const e = document.scrollingElement; return e.scrollWidth - e.clientWidth")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Skip where there is no browser; fail there in CI on Linux, where one can be installed."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    driver = shutil.which(DRIVER)
    if not found or driver is None:
        reason = f"no {' or '.join(BROWSERS)} with {DRIVER}: apt install chromium chromium-driver"
        if os.environ.get("CI") and sys.platform == "linux":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield Browser(driver)
    driver.quit()
