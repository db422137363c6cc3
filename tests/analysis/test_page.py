"""The page in a real browser: Debian's Chromium, where it is installed."""

import csv
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
    place = 9
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


def test_a_claim_links_to_its_figures_and_no_figure_is_shown_twice(page):
    links = page.locator("#C1 .pictures a")
    assert links.count() == 2 * len(CLAIMS["C1"].figures)
    for link in links.all():
        picture = page.locator(f'[id="{link.get_attribute("href")[1:]}"] img')
        assert picture.evaluate("(one) => one.naturalWidth") > 700
    titles = page.locator("img").evaluate_all("(all) => all.map((one) => one.alt)")
    assert len(set(titles)) == len(titles)


def saved(page: Page, click) -> tuple[str, list[list[str]]]:
    """The name and the rows of the CSV file that a click saves."""
    with page.expect_download() as download:
        click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        return download.value.suggested_filename, list(csv.reader(file))


def test_a_table_is_saved_as_it_is_filtered_and_sorted(page):
    name = "Means by setting and measure"
    page.get_by_role("searchbox", name=f"Filter rows: {name}", exact=True).fill("loss")
    heading = page.get_by_role("region", name=name, exact=True).get_by_role("columnheader").nth(9)
    for _ in range(2):
        heading.get_by_role("button").click()
    button = page.get_by_role("button", name=f"Save as CSV: {name}", exact=True)
    file, (headings, *rows) = saved(page, button.click)
    assert file == "Means-by-setting-and-measure.csv"
    assert headings[:3] == ["Measure", "Architecture and data set", "Setting"]
    assert {"MACs left", "Speed-up"} < set(headings)
    assert [row[0] for row in rows] == ["loss"] * 4
    values = [float(row[9].split(" ")[0]) for row in rows]
    assert values == sorted(values, reverse=True)


def test_the_chart_is_saved_as_it_is_drawn(page, site):
    choose(page)
    part(page, "none").click()
    part(page, "measures").get_by_label("loss").check()
    file, (headings, *rows) = saved(page, part(page, "csv").click)
    assert file.endswith(".csv")
    assert headings == ["group", "setting", "measure", "epoch", LOSS, "low", "high", "n"]
    assert [(row[2], int(row[3])) for row in rows] == [("loss", epoch) for epoch in range(4, 11)]
    runs = site.frames.runs.query("group == 'vgg13 on digits' and measure == 'loss'")
    runs = runs[runs["setting"] == SETTING]
    last = site.frames.history.merge(runs[["run_id"]]).query("epoch == 10")["train/loss"]
    assert float(rows[-1][4]) == pytest.approx(10 ** np.log10(last).mean(), rel=0.002)


def test_a_link_shows_the_same_chart(browser, site, page):
    choose(page, quantity="test accuracy (%)")
    part(page, "measures").get_by_label("magnitude").uncheck()
    part(page, "after").check()
    part(page, "epoch").focus()
    page.keyboard.press("Home")
    title, rows = part(page, "title").inner_text(), shown_rows(page)
    seen = visit(browser, page.url)
    expect(part(seen.page, "title")).to_have_text(title)
    assert shown_rows(seen.page) == rows
    assert "magnitude" not in rows
    assert part(seen.page, "after").is_checked()
    assert part(seen.page, "epoch-text").inner_text() == "4"
    assert seen.errors == []
    seen.page.close()


def test_a_run_opens_its_cuts_and_has_a_link(browser, site, page):
    page.locator("#runs summary").click()
    page.get_by_role("searchbox", name="Filter rows: Runs").fill("loss after 4 vgg13")
    rows = page.locator("#runs tbody tr:visible")
    expect(rows).to_have_count(3)
    name = rows.first.locator("th").inner_text()
    rows.first.get_by_role("button").click()
    cuts = page.locator("#run tbody tr")
    expect(cuts).to_have_count(3)
    recorded = site.frames.cuts[site.frames.cuts["run_id"] == name]
    assert [int(row.locator("td").first.inner_text()) for row in cuts.all()] == [4, 5, 6]
    loss = float(cuts.first.locator("td").nth(2).inner_text())
    assert loss == pytest.approx(recorded["after.loss"].iloc[0], rel=1e-3)
    seen = visit(browser, page.url)
    expect(seen.page.locator("#run-title")).to_have_text(f"Run {name}")
    seen.page.close()


def test_a_word_is_explained_to_pointer_and_keyboard(page):
    word = page.locator("header .term", has_text="collapsed").first
    meaning = word.locator(".meaning")
    assert not meaning.is_visible()
    word.focus()
    assert meaning.is_visible()
    assert "removed a whole layer" in meaning.inner_text()
    page.locator("h1").click()
    assert not meaning.is_visible()
    word.hover()
    assert meaning.is_visible()


def test_the_contents_and_the_first_column_stay_in_sight(browser, site):
    seen = visit(browser, site.url, "phone")
    box = seen.page.get_by_role("region", name="Means by setting and measure", exact=True)
    cell = box.locator("tbody th").first
    box.scroll_into_view_if_needed()
    before = cell.bounding_box()["x"]
    box.evaluate("(one) => { one.scrollLeft = 300; }")
    assert cell.bounding_box()["x"] == pytest.approx(before, abs=1)
    assert seen.page.locator("nav").bounding_box()["y"] == 0
    seen.page.close()


def test_the_page_begins_with_the_answer_and_says_what_was_run(page):
    header = page.locator("header")
    assert page.title().endswith("/runs: which pruning measure is best")
    first = page.locator("#leaderboard ~ .scroll tbody th").first.inner_text()
    lead = f"At equal filters, {first} has the best mean rank of 4 measures"
    assert header.locator(".lead").inner_text().startswith(lead)
    assert "of them diverged" in header.inner_text()
    choose(page)
    assert part(page, "lost").inner_text() == "grasp (3 diverged)"


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
