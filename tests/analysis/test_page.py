"""The page in a real browser: Debian's Chromium, where it is installed."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from analysis import compare
from analysis.claims import CLAIMS
from analysis.report import build as report
from analysis.report import style
from analysis.runs.frames import Frames
from analysis.runs.load import load
from analysis.settings import named
from analysis.stats import mean_interval
from tests.support import simulate
from tests.support.simulate import World

pytest.importorskip("playwright")  # on a machine for `pytest -m gpu` alone
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = {"phone": {"width": 380, "height": 800}, "desktop": {"width": 1440, "height": 900}}
SETTING = "cut after 4 epochs, rounds 3"
ARCHS = ("vgg13", "resnet56")
LOSS = "training loss (nats)"

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed (Debian: apt install chromium)"
    ),
    pytest.mark.xdist_group("page"),  # one process builds the site
]


@dataclass(frozen=True)
class Site:
    """A report on disk and the frames that it was made of."""

    url: str
    frames: Frames


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    early, late = (simulate.grid(archs=ARCHS, timings=[t], rounds=[r]) for t, r in ((0, 1), (4, 3)))
    configs = list({config.run_id: config for config in (*early, *late)}.values())
    gone = [config for config in configs if (config.measure, config.seed) == ("random", 2)]
    world = World(loss={"magnitude": -0.1}, diverged=("grasp",))
    simulate.simulate(folder / "runs", [config for config in configs if config not in gone], world)
    index = report.build(str(folder / "runs"), folder / "out", configs).index
    return Site(index.as_uri(), named(load(str(folder / "runs"))))


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass(frozen=True)
class Seen:
    """A page, and what went wrong in it."""

    page: Page
    errors: list[str]
    requests: list[str]


def visit(browser: Browser, url: str, width: str = "desktop", scheme: str = "light") -> Seen:
    page = browser.new_page(viewport=WIDTHS[width], color_scheme=scheme)
    seen = Seen(page, [], [])
    page.on("console", lambda message: seen.errors.append(message.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(url)
    page.wait_for_selector("#explorer[data-ready]")
    return seen


@pytest.fixture
def page(browser, site):
    seen = visit(browser, site.url)
    yield seen.page
    seen.page.close()
    assert seen.errors == []


def part(page: Page, name: str):
    return page.locator(f"#explorer [data-part={name}]")


def choose(
    page: Page, *, group: str = "vgg13 on digits", setting: str = SETTING, quantity: str = LOSS
) -> None:
    """Choose what is compared, and wait until it is drawn."""
    for name, label in (("group", group), ("setting", setting), ("quantity", quantity)):
        part(page, name).select_option(label=label)
    expect(part(page, "title")).to_have_text(f"{quantity} by epoch: {group}, {setting}")


def shown_rows(page: Page) -> dict[str, list[str]]:
    """{measure: [mean and band, seeds]} as the reader sees them."""
    rows = part(page, "rows").locator("tr").all()
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.replace("\N{MINUS SIGN}", "-").strip("[]").split(", ")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_fails_or_asks_the_network(browser, site, width, scheme):
    seen = visit(browser, site.url, width, scheme)
    seen.page.evaluate(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )
    for setting in ("0", "1"):
        part(seen.page, "setting").select_option(setting)
        inner, needed = seen.page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
        assert needed <= inner == WIDTHS[width]["width"]
    seen.page.close()
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [site.url]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_comparison_fits_and_sorts(browser, tmp_path, width):
    simulate.simulate(tmp_path / "a", simulate.grid(measures=["loss"]))
    simulate.simulate(
        tmp_path / "b", simulate.grid(measures=["loss"]), World(accuracy={"loss": -0.05})
    )
    path = compare.write(compare.compare(str(tmp_path / "a"), str(tmp_path / "b")), tmp_path)
    page = browser.new_page(viewport=WIDTHS[width])
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="test accuracy").click()
    column = page.locator(
        "#differences + .scroll td:nth-child(5), #differences + .filter + .scroll td:nth-child(5)"
    )
    assert column.first.inner_text() == "0"
    assert column.last.inner_text().startswith("+5 pp")
    page.close()


def test_the_chart_has_a_line_per_measure_in_the_looks_of_the_figures(page):
    choose(page)
    lines, measures = (
        part(page, "chart").locator(".line").all(),
        style.in_order([*simulate.MEASURES, "none"]),
    )
    assert [line.get_attribute("data-measure") for line in lines] == [
        style.name(measure) for measure in measures
    ]
    for line, measure in zip(lines, measures, strict=True):
        red, green, blue = (
            int(style.look(measure).color[place : place + 2], 16) for place in (1, 3, 5)
        )
        assert (
            line.evaluate("(one) => getComputedStyle(one).color") == f"rgb({red}, {green}, {blue})"
        )


@pytest.mark.parametrize(
    ("quantity", "key", "scale", "log"),
    [(LOSS, "train/loss", 1, True), ("test accuracy (%)", "test/accuracy", 100, False)],
)
def test_pointing_gives_the_means_and_intervals_of_the_frames(
    page, site, quantity, key, scale, log
):
    choose(page, quantity=quantity)
    chart = part(page, "chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"])
    epoch = int(part(page, "epoch-text").inner_text())
    assert 6 < epoch < 10
    runs = site.frames.runs[(site.frames.runs["group"] == "vgg13 on digits")]
    dense = runs["measure"] == "none"
    table = site.frames.history.merge(runs[(runs["setting"] == SETTING) | dense], on="run_id")
    table = table[table["epoch"] == epoch]
    seen = shown_rows(page)
    assert seen["grasp"][0] == "\N{EN DASH}"  # it diverged earlier
    for measure in ("magnitude", "loss", "grad_preservation", "random", "none"):
        values = scale * table.loc[table["measure"] == measure, key].to_numpy()
        value, seeds = seen[style.name(measure)]
        mean, band = value.split(" ", 1)
        values = np.log10(values) if log else values
        center, (low, high) = values.mean(), mean_interval(values)
        wanted = [center, low, high]
        wanted = np.power(10, wanted) if log else np.clip(wanted, 0, 100)
        assert np.array([float(mean), *numbers(band)]) == pytest.approx(wanted, rel=0.012)
        assert int(seeds) == len(values) == (2 if measure == "random" else 3)


def test_measures_can_be_left_out_and_taken_in(page):
    choose(page)
    lines = part(page, "chart").locator(".line")
    everything = lines.count()
    part(page, "measures").get_by_label("magnitude").uncheck()
    assert lines.count() == everything - 1
    assert "magnitude" not in shown_rows(page)
    part(page, "none").click()
    assert (lines.count(), part(page, "empty").is_visible()) == (0, True)
    part(page, "measures").get_by_label("loss").check()
    assert list(shown_rows(page)) == ["loss"]
    part(page, "all").click()
    assert (lines.count(), part(page, "empty").is_visible()) == (everything, False)


def test_setting_group_and_quantity_change_what_is_drawn(page):
    titles = set()
    for group in ("resnet56 on digits", "vgg13 on digits"):
        for setting in ("cut at initialisation, rounds 1", SETTING):
            for quantity in ("test accuracy (%)", "gradient norm |g| (nats)"):
                choose(page, group=group, setting=setting, quantity=quantity)
                titles.add(part(page, "chart").locator("svg").get_attribute("aria-label"))
    assert len(titles) == 8


def test_only_what_follows_the_cut(page):
    choose(page)
    ticks = part(page, "chart").locator(".axes text[text-anchor=middle]")
    assert "2" in ticks.all_text_contents()
    part(page, "after").check()
    assert "2" not in ticks.all_text_contents()
    assert part(page, "epoch").get_attribute("min") == "4"


def test_the_keyboard_reaches_and_moves_the_epoch(page):
    slider = part(page, "epoch")
    slider.focus()
    page.keyboard.press("Home")
    first = shown_rows(page)
    page.keyboard.press("ArrowRight")
    assert part(page, "epoch-text").inner_text() == "2"
    assert shown_rows(page) != first
    assert slider.evaluate("(one) => getComputedStyle(one).outlineStyle") == "solid"


def test_the_first_tab_offers_to_skip_to_the_content(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_tables_sort_by_value_and_put_what_is_missing_last(page):
    box = page.get_by_role("region", name="Means by setting and measure")
    place = 6
    heading = box.get_by_role("columnheader").nth(place)
    cells = box.locator(f"tbody td:nth-child({place + 1})")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        heading.get_by_role("button").press("Enter")
        assert heading.get_attribute("aria-sort") == direction
        texts = cells.all_inner_texts()
        values = [numbers(text.split(" ")[0])[0] for text in texts if text != "\N{EN DASH}"]
        assert sorted(values, key=lambda value: sign * value) == values
        assert len(set(values)) > 3
        assert texts[len(values) :] == ["\N{EN DASH}"] * 4
    assert box.locator("th[aria-sort]").count() == 1


def test_tables_filter_by_words(page):
    box, field = (
        page.get_by_role(role, name=f"{text}Means by setting and measure", exact=True)
        for role, text in (("region", ""), ("searchbox", "Filter rows: "))
    )
    field.fill("LOSS vgg13")
    rows = box.locator("tbody tr:visible").all_inner_texts()
    assert len(rows) == 2
    assert all("loss" in row and "vgg13" in row for row in rows)
    assert page.get_by_text("2 of 22 rows").is_visible()
    field.fill("")
    assert box.locator("tbody tr:visible").count() == 22


def test_a_claim_shows_the_figures_of_the_group_that_is_chosen(page):
    card, drawn = page.locator("#C1"), len(CLAIMS["C1"].figures)
    pictures = card.locator("figure img")
    assert (pictures.count(), card.locator("figure img:visible").count()) == (2 * drawn, drawn)
    card.get_by_label("Figures of").select_option("vgg13 on digits")
    alts = [picture.get_attribute("alt") for picture in card.locator("figure img:visible").all()]
    assert len(alts) == drawn
    assert all("vgg13 on digits" in alt for alt in alts)
    sizes = pictures.evaluate_all("(all) => all.map((one) => one.naturalWidth)")
    assert min(sizes) > 1000


def test_the_colour_scheme_can_be_changed_and_is_remembered(browser, site):
    seen = visit(browser, site.url, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = seen.page.evaluate(background)
    seen.page.get_by_role("button", name="Light colours").click()
    light = seen.page.evaluate(background)
    assert light != dark
    seen.page.wait_for_function("localStorage.getItem('theme') === 'light'")
    seen.page.reload()
    expect(seen.page.locator("body")).to_have_css("background-color", light)
    seen.page.get_by_role("button", name="Dark colours").click()
    expect(seen.page.locator("body")).to_have_css("background-color", dark)
    seen.page.close()
