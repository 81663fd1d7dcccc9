"""Pages in a real Chromium: what it complains of, what it asks the network for, and what a person can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maws_composer.reporting.comparison import write_comparison
from maws_composer.reporting.plots import COLORS
from maws_composer.reporting.report import write_report
from tests.reporting.browser import Tab, chromium, headless
from tests.reporting.synthetic import FLOPS, GLOBAL_BATCH, add_pictures, eventful_run

pytestmark = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian's package: chromium)")
PHONE = (390, 844)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with headless(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of one run, and of three, one of them called by what must not run."""
    folder = tmp_path_factory.mktemp("runs")
    mae = eventful_run(folder / "mae")
    add_pictures(mae)
    scratch = eventful_run(folder / "scratch", "<img src=x onerror=document.title='run'>", "wsp", 0.9)
    after = eventful_run(folder / "after", "mae-wsp", "wsp", 0.8, initialize_from=str(mae))
    several = write_comparison([mae, scratch, after], folder / "evaluations", folder / "several.html")
    return {"one": write_report(mae, folder / "evaluations"), "several": several}


@pytest.mark.parametrize("name", ["one", "several"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1280, 900), PHONE])
def test_a_page_is_drawn_without_complaint_network_or_sideways_scrolling(
    tab: Tab, pages: dict[str, Path], tmp_path: Path, name: str, dark: bool, size: tuple[int, int]
) -> None:
    tab.open(pages[name], *size, dark=dark)
    assert tab.complaints == [] and tab.requests == []
    assert tab.evaluate("document.documentElement.scrollWidth") == size[0]
    drawn = ".scatterlayer .js-line, .bars path, .heatmaplayer image"
    charts = f"[...document.querySelectorAll('.chart')].map((chart) => !!chart.querySelector('{drawn}'))"
    assert tab.evaluate(charts) == [True] * (12 if name == "one" else 10)
    assert tab.evaluate("document.title") != "run"
    pixels = np.asarray(Image.open(tab.screenshot(tmp_path / "page.png")).convert("L"))
    assert pixels.shape[0] > 3000 and (np.median(pixels) < 64) == dark
    assert ((pixels > 128) == dark).mean() > 0.01, "something is written on it"


def test_text_can_be_read_in_light_and_dark(tab: Tab, pages: dict[str, Path]) -> None:
    """Contrasts of WCAG 2.1, AA: 4.5 for text and 3 for lines of plots."""
    for dark in (False, True):
        tab.open(pages["one"], dark=dark)
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        raised = tab.evaluate("getComputedStyle(document.querySelector('.health')).backgroundColor")
        for selector, style, ground, least in (
            ("body", "color", paper, 4.5), ("figcaption", "color", paper, 4.5), ("nav a", "color", paper, 4.5),
            ("dt", "color", raised, 4.5), (".look .mark", "color", raised, 4.5), (".good .mark", "color", raised, 4.5),
            (".xtick text", "fill", paper, 4.5), (".legendtext", "fill", paper, 4.5),
            (".scatterlayer .js-line", "stroke", paper, 3.0), (".scatterlayer .point", "fill", paper, 3.0),
        ):  # fmt: skip
            color = tab.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{style}")
            assert _contrast(color, ground) >= least, (selector, color, ground)
        for color in COLORS:
            channels = ", ".join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))
            assert _contrast(f"rgb({channels})", paper) >= 3, (color, paper)


def test_the_keyboard_switches_to_flops_and_back(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"])
    _tab_to(tab, "document.activeElement.value === 'samples'")
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is to be seen"
    title = "document.querySelector('.chart .xtitle').textContent"
    last = "document.querySelector('.chart').plot.data[1].x.at(-1)"
    assert tab.evaluate(title) == "samples"
    samples = tab.evaluate(last)
    tab.press("ArrowRight")
    tab.wait_for(f"{title} === 'training FLOPs'")
    assert tab.evaluate(last) == pytest.approx(FLOPS * samples)
    assert samples == pytest.approx(2400 * GLOBAL_BATCH, rel=0.02)
    tab.press("ArrowLeft")
    tab.wait_for(f"{title} === 'samples'")
    assert tab.evaluate(last) == samples
    assert tab.complaints == []


def test_the_keyboard_switches_to_logarithmic_losses(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"])
    _tab_to(tab, "document.activeElement.name === 'log'")
    axis = "document.querySelector('.chart').plot._fullLayout.yaxis"
    before = tab.evaluate(f"{axis}.range")
    tab.press(" ")
    tab.wait_for(f"{axis}.type === 'log'")
    assert tab.evaluate(f"{axis}.range") == pytest.approx(np.log10(before))
    tab.press(" ")
    tab.wait_for(f"{axis}.type === 'linear'")
    assert tab.evaluate(f"{axis}.range") == pytest.approx(before)


def test_the_keyboard_goes_through_pictures(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"])
    seen = "document.querySelector('.series figure:not([hidden]) figcaption').textContent"
    assert tab.evaluate(seen) == "reconstructions, after batch 2,400"
    _tab_to(tab, "document.activeElement.type === 'range'")
    tab.press("ArrowLeft")
    tab.wait_for(f"{seen} === 'reconstructions, after batch 1,800'")
    assert tab.evaluate("document.querySelectorAll('.series figure:not([hidden])').length") == 1


def test_the_keyboard_reaches_every_section(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"])
    links = tab.evaluate("[...document.querySelectorAll('nav a')].map((link) => link.hash.slice(1))")
    assert links == tab.evaluate("[...document.querySelectorAll('main section[id]')].map((section) => section.id)")
    _tab_to(tab, "document.activeElement.hash === '#loss-and-evaluations'")
    assert tab.evaluate("[...document.querySelectorAll('img, [role=img]')].every((each) => each.alt || each.ariaLabel)")


@pytest.mark.parametrize("dark", [False, True])
def test_hovering_shows_values(tab: Tab, pages: dict[str, Path], dark: bool) -> None:
    tab.open(pages["one"], dark=dark)
    box = "document.querySelector('.chart .nsewdrag').getBoundingClientRect()"
    middle = tab.evaluate(f"(({{x, y, width, height}}) => ({{x: x + width / 2, y: y + height / 2}}))({box})")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", **middle)
    tab.wait_for("document.querySelector('.hoverlayer .legendtext')")
    texts = tab.evaluate("[...document.querySelectorAll('.hoverlayer text')].map((text) => text.textContent)")
    assert any(re.fullmatch(r"training : 0\.4[89]\d*", text) for text in texts), texts
    colors = [f"getComputedStyle(document.querySelector('.hoverlayer {name}')).fill" for name in ("text", ".bg")]
    assert _contrast(*map(tab.evaluate, colors)) >= 4.5


def test_a_run_can_be_hidden_in_all_plots(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["several"])
    _tab_to(tab, "document.activeElement.value === 'mae-wsp'")
    tab.press(" ")
    shown = (
        "[...document.querySelectorAll('.chart')].flatMap(({plot}) => plot.data)"
        ".filter((trace) => trace.visible !== false).map((trace) => trace.meta.run)"
    )
    assert set(tab.evaluate(shown)) == {"vit-b", "<img src=x onerror=document.title='run'>"}


def test_a_page_without_javascript_has_its_tables_and_pictures(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"], script=False)
    text = tab.evaluate("document.body.innerText")
    assert "The curves need JavaScript" in text and "Worth a look" in text and "1,601 to 2,400" in text
    assert "against" not in text, "no switch that does nothing"
    sizes = tab.evaluate("[...document.images].map((image) => image.checkVisibility() && image.naturalWidth)")
    assert sizes == [360] * 4


def test_a_printed_page_is_light(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["one"], dark=True)
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill") == "rgb(29, 33, 41)"
    assert not tab.evaluate("document.querySelector('.switches').checkVisibility()")
    tab.call("Emulation.setEmulatedMedia", media="")


def _tab_to(tab: Tab, condition: str) -> None:
    for _ in range(60):
        tab.press("Tab")
        if tab.evaluate(condition):
            return
    raise AssertionError(f"the keyboard does not get to {condition}")


def _contrast(*colors: str) -> float:
    """Contrast ratio of two colors, `rgb(…)`."""
    light = []
    for color in colors:
        channels = np.array([int(part) for part in color[4:-1].split(",")]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(light) / min(light)
