"""The pages of ``fusedmlp demo`` in a browser: real strokes, real clicks, no request."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp import MLP, Dataset, Trainer, load_dataset, make_optimizer
from fusedmlp.demo import demo_page
from fusedmlp.demo.page import joined_modules
from fusedmlp.demo.payload import image_payload

pytestmark = pytest.mark.browser

DRAWINGS = {
    "1": [[(0.52, 0.15), (0.50, 0.5), (0.48, 0.85)]],
    "7": [[(0.25, 0.2), (0.5, 0.19), (0.75, 0.18), (0.6, 0.5), (0.45, 0.85)]],
    "0": [
        [
            (0.5 + 0.22 * np.sin(turn), 0.5 - 0.34 * np.cos(turn))
            for turn in np.linspace(0, 2 * np.pi, 21)
        ]
    ],
}
"""Strokes as shares of the field."""


def trained(name, sizes, rows=None, epochs=20, **options):
    data = load_dataset(name)
    mlp = MLP(sizes, backend="numpy", **options)
    trainer = Trainer(make_optimizer("adam", 0.005), epochs=epochs, batch_size=64)
    trainer.fit(mlp, data.x_train[:rows], data.y_train[:rows])
    mlp.class_names = data.class_names
    return mlp


@pytest.fixture(scope="module")
def digits():
    return trained("digits", (64, 48, 10))


@pytest.fixture(scope="module")
def mnist():
    return trained("mnist", (784, 32, 10), rows=8_000, epochs=2)


@pytest.fixture(scope="module")
def moons():
    return trained("moons", (2, 12, 2), epochs=100, hidden="tanh")


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")

    def write(mlp, data=None):
        path = folder / "page.html"
        path.write_text(demo_page(mlp, data), "utf-8")
        return path

    return write


def draw(browser, strokes, kind="mouse"):
    """Draw on the field with a pointing device."""
    from selenium.webdriver.common.action_chains import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    field = browser.find("#field")
    width, height = field.size["width"], field.size["height"]
    actions = ActionBuilder(browser.driver, mouse=PointerInput(kind, kind), duration=5)
    pointer = actions.pointer_action
    for stroke in strokes:
        places = [(int((x - 0.5) * width), int((y - 0.5) * height)) for x, y in stroke]
        pointer.move_to(field, *places[0]).pointer_down()
        for place in places[1:]:
            pointer.move_to(field, *place)
        pointer.pointer_up()
    actions.perform()


def answer(browser):
    return browser.find("#answer").text.split(",")[0]


def shown_probabilities(browser):
    script = "return [...document.querySelectorAll('[role=meter]')].map((m) => +m.ariaValueNow)"
    return np.array(browser.run(script))


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1280, "light")])
@pytest.mark.parametrize("kind", ["digits", "moons"])
def test_a_page_asks_for_nothing_and_fits_into_the_window(
    browser, request, write, kind, width, theme
):
    data = load_dataset("moons") if kind == "moons" else None
    path = write(request.getfixturevalue(kind), data)
    browser.open(path, width, theme=theme)
    if kind == "digits":
        browser.find("#samples button").click()
        assert browser.find("#results").is_displayed()
    assert browser.overflow() == 0
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("model", "kind"),
    [("mnist", "mouse"), ("digits", "mouse"), ("digits", "touch"), ("digits", "pen")],
)
def test_drawn_digits_are_recognised(browser, request, write, model, kind):
    browser.open(write(request.getfixturevalue(model)))
    for digit, strokes in DRAWINGS.items():
        draw(browser, strokes, kind)
        assert answer(browser) == digit
        assert browser.find(".winner").text.startswith(digit)
        browser.find("#clear").click()
        assert shown_probabilities(browser).tolist() == [0.0] * 10
    # Size and place do not matter.
    draw(browser, [[(0.05 + 0.3 * x, 0.6 + 0.3 * y) for x, y in DRAWINGS["7"][0]]], kind)
    assert answer(browser) == "7"


def test_the_keyboard_draws(browser, write, mnist):
    from selenium.webdriver.common.keys import Keys

    browser.open(write(mnist))
    field = browser.find("#field")
    field.send_keys(Keys.ARROW_UP, Keys.SPACE, *[Keys.ARROW_DOWN] * 16, Keys.SPACE)
    assert answer(browser) == "1"
    field.send_keys(*[Keys.ARROW_RIGHT] * 10)  # the pen is lifted
    assert answer(browser) == "1"


@pytest.mark.parametrize("model", ["digits", "mnist"])
def test_the_bars_are_the_model_s_probabilities(browser, request, write, model):
    mlp = request.getfixturevalue(model)
    browser.open(write(mlp))
    modules = joined_modules("strokes.js", "samples.js")
    script = """
    const inField = (stroke) => stroke.map((point) => point.map((c) => 40 + 10 * c));
    return SAMPLES.map((sample) => [...rasterised(sample.map(inField), arguments[0])]);
    """
    pixels = np.array(browser.run(modules + script, image_payload(mlp)["image"]))
    expected = mlp.predict_proba(pixels.astype(np.float32))
    right = 0
    for digit, button in enumerate(browser.driver.find_elements("css selector", "#samples button")):
        button.click()
        np.testing.assert_allclose(shown_probabilities(browser), expected[digit], atol=1e-6)
        right += answer(browser) == str(digit)
    assert right >= 8


def test_drawings_become_images_like_those_of_mnist(browser, mnist):
    image = image_payload(mnist)["image"]
    modules = joined_modules("strokes.js")
    script = modules + "return [...rasterised(arguments[0], arguments[1])]"
    for strokes in DRAWINGS.values():
        pixels = np.reshape(browser.run(script, strokes, image), (28, 28))
        # Measured on MNIST: the centre of mass is 14.0 with a deviation of 0.3, counted from 0.
        rows, columns = pixels.sum(axis=1), pixels.sum(axis=0)
        assert rows @ np.arange(28) / rows.sum() == pytest.approx(14.0, abs=0.3)
        assert columns @ np.arange(28) / columns.sum() == pytest.approx(14.0, abs=0.3)
        height = np.ptp(np.flatnonzero(rows > 0.2)) + 1
        assert 19 <= height <= 21
        assert np.unique(pixels).size > 3  # grey levels
        moved = [[(9 + 0.2 * x, 5 + 0.2 * y) for x, y in stroke] for stroke in strokes]
        other = np.reshape(browser.run(script, moved, image), (28, 28))
        np.testing.assert_allclose(other, pixels, atol=1 / 255 + 1e-9)


def test_the_plane_is_trained_as_the_library_trains(browser, write, moons):
    data = load_dataset("moons")
    browser.open(write(moons, data))
    saved = moons.evaluate(data.x_train, data.y_train)
    assert float(browser.find("#loss").text) == pytest.approx(saved.loss, rel=1e-5)
    assert browser.find("#accuracy").text == f"{100 * saved.accuracy:.1f} %"
    browser.find("#start").click()
    rate = 10 ** browser.run("return Number(document.getElementById('rate').value)")
    again = MLP((2, 12, 2), "tanh", backend="numpy", seed=moons.seed)
    trainer = Trainer(make_optimizer("sgd", rate), epochs=5, batch_size=len(data.x_train))
    before = again.evaluate(data.x_train, data.y_train).loss
    assert float(browser.find("#loss").text) == pytest.approx(before, rel=1e-5)
    for _ in range(5):
        browser.find("#single").click()
    trainer.fit(again, data.x_train, data.y_train)
    after = again.evaluate(data.x_train, data.y_train).loss
    assert float(browser.find("#loss").text) == pytest.approx(after, rel=1e-5)
    assert browser.find("#step").text == "5"


def test_training_plays_and_pauses(browser, write, moons):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.open(write(moons, load_dataset("moons")))
    browser.find("#start").click()
    first = float(browser.find("#loss").text)
    picture = "return document.getElementById('plane').toDataURL()"
    before = browser.run(picture)
    browser.run(
        "const s = document.getElementById('per-frame'); s.value = 5;"
        "s.dispatchEvent(new Event('input'))"
    )
    assert browser.find("#per-frame-value").text == "32"
    browser.find("#play").click()
    assert browser.find("#play").text == "Pause"
    WebDriverWait(browser.driver, 30).until(
        lambda _: int(browser.find("#step").text.replace(",", "")) >= 96
    )
    browser.find("#play").click()
    step = int(browser.find("#step").text.replace(",", ""))
    assert step % 32 == 0
    browser.run("return new Promise((done) => setTimeout(done, 100))")
    assert int(browser.find("#step").text.replace(",", "")) == step
    assert float(browser.find("#loss").text) < 0.9 * first
    assert browser.run(picture) != before
    assert len(browser.find("#curve").get_attribute("points").split()) > 50
    browser.find("#saved").click()
    assert browser.find("#step").text == "0"


OTHERS = [
    ((64, 10), {}),
    ((64, 9, 7, 10), {"hidden": "relu"}),
    ((64, 9, 1), {"output": "sigmoid"}),
    ((64, 9, 3), {"output": "sigmoid"}),
    ((2, 3), {}),
    ((2, 6, 1), {"output": "sigmoid", "hidden": "gelu"}),
    ((2, 6, 1), {"output": "identity"}),
    ((2, 6, 1), {"output": "exp"}),
]


@pytest.mark.parametrize(("sizes", "options"), OTHERS)
def test_other_networks_have_pages_too(browser, write, sizes, options):
    mlp = MLP(sizes, **options)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    is_class, K = mlp.network.output == "softmax", sizes[-1]
    y = rng.integers(0, K, 30) if is_class else rng.integers(0, 2, (30, K)).astype(float)
    task = "classification" if is_class else "regression"
    data = Dataset("drawn", x, y, None, None, K, task, None, "drawn", None)
    browser.open(write(mlp, data))
    if sizes[0] == 64:
        draw(browser, DRAWINGS["7"])
        assert len(browser.texts("#hidden figcaption")) == len(sizes) - 2
        assert len(browser.texts(".bar")) == max(K, 2)
        assert browser.find("#units").is_displayed() == (len(sizes) > 2)
    else:
        loss = float(browser.find("#loss").text)
        assert loss == pytest.approx(mlp.evaluate(x, y).loss, rel=1e-5)
        browser.find("#single").click()
        assert float(browser.find("#loss").text) < loss
    assert browser.complaints() == []


def test_a_training_that_diverges_stops_and_says_so(browser, write):
    x, y = np.full((4, 2), 50.0), np.full((4, 1), 9.0)
    data = Dataset("drawn", x, y, None, None, 1, "regression", None, "drawn", None)
    browser.open(write(MLP((2, 3, 1), "identity", "identity"), data))
    browser.run("document.getElementById('rate').value = 1")
    browser.run("for (let i = 0; i < 50; i++) document.getElementById('single').click()")
    assert "lower the rate" in browser.find("#message").text
    assert browser.find("#play").text == "Play"
