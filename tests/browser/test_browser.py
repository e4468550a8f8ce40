"""The report as a reader meets it: a headless Chromium opens it, wide and on a phone, and clicks through it.

Without a Chromium these tests skip; with SMALLBATCH_BROWSER=required in the environment they fail instead.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from helpers.tables import HERE, TEMPLATE, claims, planned, study_told
from playwright.sync_api import Browser, Locator, expect, sync_playwright
from playwright.sync_api import Page as Tab

from smallbatch.figures import draw, style
from smallbatch.publish.report import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}

DIFFERING = {
    "model": "alexnet", "weight_decay": 0.0005, "norm": "batch", "norm_layers": "conv", "warmup": False,
    "augment_pad": 0, "selection": "validation",
    "variance_batch_sizes": (2, 4, 8, 16, 32, 64, 128), "batch_sizes": (2, 8, 32, 128, 512),
    "bn_batch_sizes": (2, 8, 32), "base_lrs": tuple(2.0**k for k in range(-12, -2, 2)),
    "best_of": ("resnet8-bn-augmented",),
}  # fmt: skip
"""Settings in which the experiments of `laptop` differ, the longest value of each."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        tell = pytest.fail if os.environ.get("SMALLBATCH_BROWSER") == "required" else pytest.skip
        tell(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all that can be too wide: many experiments, long names, long sentences, a wide figure."""
    folder = tmp_path_factory.mktemp("report")
    names = [f"resnet32-bn-augmented-with-a-long-name-{i}" for i in range(6)]
    runs = pd.concat([planned({(m, 2**-8): [0.8, 0.9] for m in (2, 8, 32)}, experiment=name) for name in names])
    kinds = {"fig01": "accuracy", "fig15": "best", "fig16": "range"}
    figures = []
    for name, kind in kinds.items():
        spec = {"kind": kind, "title": f"A figure of {kind}", "experiments": names[:1] if kind == "accuracy" else names}
        picture = folder / f"{name}.svg"
        style.save(draw(spec, runs, pd.DataFrame(), pd.DataFrame(), spec["experiments"]), [picture])
        words = "What is drawn, in plain words. " * 8
        figures.append({"name": name, "title": spec["title"], "caption": words, "svg_path": picture})
    settings = {"data": "digits", "own_metric": "a/folder/of/mine/with_a_module_of_metrics.py:an_f_score_of_mine"}
    told = study_told(
        description="What the study is for. " * 12,
        scale={"name": "glimpse", "epochs": 0.05},
        experiments={name: settings | dict.fromkeys(DIFFERING) for name in names} | {"alexnet": settings | DIFFERING},
    )
    judged = claims(text="A claim of the paper, in words that need more than one line of a phone. " * 2)
    judged.loc[1, "figures"] = "fig15, fig16"
    place = HERE | {"commit": "0123456789abcdef" * 4}
    file = folder / "report.html"
    file.write_text(render(TEMPLATE, told, figures, runs, judged, [place, place | {"device": "GPU"}]))
    return file


def open_tab(browser: Browser, address: str, settings: dict) -> tuple[Tab, list[str]]:
    """A tab without network at `address`, and a list that grows by what goes wrong or is loaded there."""
    tab = browser.new_context(offline=True, **settings).new_page()
    troubles: list[str] = []
    tab.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    tab.on("console", lambda message: troubles.append(f"console: {message.text}"))
    tab.on("request", lambda request: request.url == address or troubles.append(f"request: {request.url}"))
    tab.goto(address)
    return tab, troubles


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def tab(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Tab]:
    tab, troubles = open_tab(browser, report.as_uri(), request.param)
    yield tab
    tab.context.close()
    assert troubles == []


def claim(tab: Tab, name: str) -> Locator:
    return tab.locator(f"tr#{name}")


def shown(tab: Tab) -> list[str]:
    """The claims that the filter leaves."""
    rows = tab.locator("#claims tbody tr").all()
    return [row.get_attribute("id") for row in rows if row.is_visible()]


def test_trouble_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.org/a.png'><script>console.error('oh'); throw Error('no')</script>")
    tab, troubles = open_tab(browser, bad.as_uri(), DESKTOP)
    tab.context.close()
    for trouble in ("request: http://example.org/a.png", "console: oh", "error: no"):
        assert trouble in troubles


def test_claims_come_first(tab: Tab) -> None:
    assert tab.locator("table, figure").first.evaluate("it => it.closest('section').id") == "claims"
    expect(tab.get_by_text("1 supported, 1 refuted, 1 undecided, 1 not run")).to_be_in_viewport()
    expect(tab.get_by_text("Reduced:")).to_be_in_viewport()
    assert shown(tab) == ["C1", "C2", "C3", "C4"]


BROKEN = """cells => cells.flatMap(cell => [...cell.firstChild.data.matchAll(/\\S+/g)].filter(word => {
  const range = document.createRange();
  range.setStart(cell.firstChild, word.index);
  range.setEnd(cell.firstChild, word.index + word[0].length);
  return range.getClientRects().length > 1;
}).map(word => word[0]))"""


def test_no_word_of_a_table_is_broken(tab: Tab) -> None:
    cells = tab.locator("#results td span, #settings td span")
    assert cells.evaluate_all(BROKEN.replace("\\S+", "[^\\s-]+")) == []
    assert cells.count() == 6 * 8 + 7 * len(DIFFERING)


def test_tables_fit_the_page(tab: Tab) -> None:
    for box in tab.locator(".box").all():
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth"), box.get_attribute("aria-label")


def test_a_row_of_a_phone_names_each_value(browser: Browser, report: Path) -> None:
    tab, _ = open_tab(browser, report.as_uri(), PHONE)
    cell = tab.locator("#results tbody tr").first.locator("td").last
    assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"time trained"'
    expect(tab.locator("#results thead")).to_be_hidden()
    tab.context.close()


def luminance(rgb: list[float]) -> float:
    """Of a colour of sRGB, by WCAG."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


SEEN = """() => [...document.querySelectorAll("body *")].filter(
  one => one.checkVisibility() && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(one => {
  let below = one;
  const clear = () => getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)";
  while (below.parentElement && clear()) below = below.parentElement;
  return [one.tagName + " " + one.className, getComputedStyle(one).color, getComputedStyle(below).backgroundColor];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_under_it(browser: Browser, report: Path, scheme: str) -> None:
    tab, _ = open_tab(browser, report.as_uri(), DESKTOP | {"color_scheme": scheme})
    seen = {tuple(one) for one in tab.evaluate(SEEN)}
    tab.context.close()
    assert len(seen) > 10
    for what, *colours in seen:
        dark, light = sorted(luminance([int(part) / 255 for part in re.findall(r"\d+", one)[:3]]) for one in colours)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{what}: {colours}"  # WCAG 2, level AA


def test_nothing_is_wider_than_the_page(tab: Tab) -> None:
    for summary in tab.locator("summary").all():
        summary.click()
    width = tab.viewport_size["width"]
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    for box in (box.bounding_box() for box in tab.locator(".box, figure, .judged").all()):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_a_claim_opens_to_its_evidence(tab: Tab) -> None:
    evidence = tab.get_by_text("Best at m = 2 (97.5 %), best of m > 8: 96.3 %.")
    expect(evidence).to_be_hidden()
    claim(tab, "C1").locator("summary").click()
    expect(evidence).to_be_visible()
    expect(claim(tab, "C1").get_by_text("best at m ≤ 8")).to_be_visible()
    expect(claim(tab, "C2").get_by_text("best at m ≤ 8")).to_be_hidden()


def test_links_lead_to_the_figure_and_back_to_the_claim(tab: Tab) -> None:
    claim(tab, "C2").locator("summary").click()
    figure = tab.locator("figure#fig16")
    expect(figure).not_to_be_in_viewport()
    claim(tab, "C2").get_by_role("link", name="Figure 16").click()
    expect(figure.locator("img")).to_be_in_viewport()
    tab.locator("figure#fig01").get_by_role("link", name="C3").click()
    expect(claim(tab, "C3")).to_be_in_viewport()
    expect(claim(tab, "C3").get_by_text("Not in this study")).to_be_visible()


def test_the_filter_shows_one_verdict_and_gives_way_to_a_link(tab: Tab) -> None:
    tab.get_by_label("refuted").check()
    assert shown(tab) == ["C2"]
    tab.get_by_label("not run").check()
    assert shown(tab) == ["C4"]
    tab.locator("figure#fig01").get_by_role("link", name="C1").click()
    expect(claim(tab, "C1")).to_be_in_viewport()
    assert shown(tab) == ["C1", "C2", "C3", "C4"]


def test_figures_are_loaded(tab: Tab) -> None:
    widths = tab.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == 3
    assert min(widths) > 0


def test_an_address_may_name_a_claim(browser: Browser, report: Path) -> None:
    tab, _ = open_tab(browser, report.as_uri() + "#C1", PHONE)
    expect(claim(tab, "C1").get_by_text("Best at m = 2")).to_be_visible()
    tab.context.close()


def test_all_but_the_way_back_works_without_scripts(browser: Browser, report: Path) -> None:
    tab, _ = open_tab(browser, report.as_uri(), PHONE | {"java_script_enabled": False})
    tab.get_by_label("supported").check()
    assert shown(tab) == ["C1"]
    claim(tab, "C1").locator("summary").click()
    expect(claim(tab, "C1").get_by_text("Best at m = 2")).to_be_visible()
    claim(tab, "C1").get_by_role("link", name="Figure 1").click()
    expect(tab.locator("figure#fig01 img")).to_be_in_viewport()
    tab.context.close()
