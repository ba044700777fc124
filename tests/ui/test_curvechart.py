"""The chart in a real browser, beside the budget bar whose position it follows."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from dataclasses import replace

import made_up
import pytest
from page import RANGE, click, settle, wait_for_chart

gr = pytest.importorskip("gradio")

from bars import choice_of, first_value  # noqa: E402

from lwq_ui.core.allocation import breakpoints  # noqa: E402
from lwq_ui.core.orderings import ORDERINGS, rank_layers  # noqa: E402
from lwq_ui.ui.bar.table import bar_table  # noqa: E402
from lwq_ui.ui.charts import ChartData, ModelResults, results_figure  # noqa: E402
from lwq_ui.ui.components.curvechart import CurveChart, as_json, plotly_path  # noqa: E402
from lwq_ui.ui.components.heatmap import BudgetBar  # noqa: E402

COST, COSTS, ALL = made_up.model_cost(), made_up.costs(), made_up.all_curves()
ACC, PPL = "minimal_pairs/acc", "perplexity/perplexity"
MIB = 2**20


def figure(name: str):
    """What the page's buttons ask for."""
    if name == "two models":
        theirs = made_up.all_curves((4, 2), ["lim"], 40)
        large = made_up.costs(40, 1280)
        other = ModelResults("large", made_up.sweep(theirs, 40), theirs, large)
        mine = made_up.all_curves((8, 4), ["lim"])
        small = ModelResults("small", made_up.sweep(mine), mine, COSTS)
        return results_figure(ChartData(small, ACC, made_up.TITLES, axis="size", other=other))
    if name == "three levels":
        three = made_up.all_curves((8, 4, 2), ["lim"])
        model = ModelResults("", made_up.sweep(three), three, COSTS)
        return results_figure(ChartData(model, PPL, made_up.TITLES))
    wanted = {
        "lim": ["lim"],
        "pruning": ["lim", "prune-by-lim", "prune-from-top"],
        "eight": made_up.TWO_LEVELS,
        "quantizers": ["lim"],
        "one of them": ["lim"],
    }[name]
    measured = made_up.sweep([c for c in ALL if c.ordering in wanted])
    if name in ("quantizers", "one of them"):
        for e in [e for s in ALL[0].splits for e in made_up.evaluate(s, quantizer="quanto-hqq")]:
            lower = {name: replace(m, value=0.8 * m.value) for name, m in e.metrics.items()}
            measured.append(replace(e, metrics=lower))  # beside the other line, not below it
    measured = [made_up.with_items(e) for e in measured if e.task == "minimal_pairs"]
    model = ModelResults("", measured, ALL, COSTS)
    return results_figure(ChartData(model, ACC, made_up.TITLES, beside=BESIDE.get(name)))


VIEWS = ("lim", "pruning", "eight", "two models", "three levels", "quantizers", "one of them")
BESIDE = {"one of them": set()}


def small_page():
    live = {
        "queue": False,
        "show_progress": "hidden",
        "trigger_mode": "always_last",
        "api_visibility": "private",
    }
    with gr.Blocks(analytics_enabled=False, fill_width=True) as page:
        BudgetBar(
            first_value(COST, (4, 2)),
            table=bar_table(choice_of(COST, (4, 2), made_up.scores())),
            elem_id="bar",
        )
        chart = CurveChart(elem_id="chart", container=True, padding=True, visible="hidden")
        gr.HTML("<p>after</p>", elem_id="after")
        seen = gr.HTML(elem_id="seen")
        for name in VIEWS:
            gr.Button(name, elem_id=name.replace(" ", "-")).click(
                lambda name=name: gr.update(figure=as_json(figure(name)), visible=True),
                None,
                chart,
                **live,
            )
        clicks = itertools.count()  # the page shows nothing new where the answer is the same
        chart.select(
            lambda v: f"<output>{next(clicks)} {json.dumps(v)}</output>", chart, seen, **live
        )
    return page


@pytest.fixture(scope="module")
def url(chrome):
    page = small_page()
    theme = gr.themes.Default().set(
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400"
    )
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False, theme=theme
    )
    yield url
    page.close(verbose=False)


def show(page, name="eight"):
    page.click(f"#{name.replace(' ', '-')}")
    uid = figure(name)["keys"][0]
    page.wait_for_selector(f"#chart .trace{uid}", timeout=20000)
    lines = len([t for t in figure(name)["data"] if t["mode"] == "lines+markers"])
    page.wait_for_function(
        "n => document.querySelector('#chart .plot').data"
        "?.filter(t => t.mode === 'lines+markers').length === n",
        arg=lines,
    )
    return page


@pytest.fixture
def page(open_page, url):
    page = open_page(url, viewport={"width": 1100, "height": 1000})
    page.wait_for_selector("#bar .cell")
    return page


PLOT = "document.querySelector('#chart .plot')"


def point(page, trace: str, index: int):
    """Where a point of a line is in the window."""
    page.locator("#chart .plot").scroll_into_view_if_needed()
    return page.evaluate(
        f"""([name, index]) => {{
          const plot = {PLOT}, {{ xaxis, yaxis }} = plot._fullLayout;
          const trace = plot.data.find(t => t.name === name);
          const box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(trace.x[index]),
                  box.top + yaxis._offset + yaxis.d2p(trace.y[index])];
        }}""",
        [trace, index],
    )


@pytest.mark.browser
def test_plotly_comes_from_this_server_and_only_when_it_is_needed(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator(RANGE).press("Home")
    settle(page)
    assert not any("plotly" in url for url in asked)
    assert page.evaluate("typeof window.Plotly") == "undefined"
    show(page)
    assert len([url for url in asked if url.endswith(plotly_path().name)]) == 1
    show(page, "pruning")
    assert len([url for url in asked if url.endswith(plotly_path().name)]) == 1
    # open_page fails the test for any request to another server


@pytest.mark.browser
def test_a_click_chooses_the_points_split(page):
    show(page)
    lim = "LIM = Block influence"
    splits = next(c for c in ALL if c.ordering == "lim").splits
    for index in (6, 6, 15):  # the same one twice
        before = page.evaluate("document.querySelector('#seen output')?.innerText ?? ''")
        x, y = point(page, lim, index)
        page.mouse.move(x + 3, y + 1)
        page.mouse.move(x, y)
        click(page, x, y)
        page.wait_for_function(
            """([before, wanted]) => {
              const text = document.querySelector('#seen output')?.innerText ?? '';
              return text !== before && text.endsWith(wanted);
            }""",
            arg=[before, json.dumps({"split": list(splits[index]), "quantizer": "quanto"})],
        )


@pytest.mark.browser
def test_a_click_names_the_points_quantizer(page):
    show(page, "quantizers")
    wait_for_chart(page)
    x, y = point(page, "LIM = Block influence, Quanto, HQQ", 12)
    page.mouse.move(x + 3, y + 1)
    page.mouse.move(x, y)
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    assert "Quanto, HQQ" in page.locator("#chart .hoverlayer .hovertext").text_content()
    page.mouse.click(x, y)
    clicked = json.dumps({"split": list(ALL[0].splits[12]), "quantizer": "quanto-hqq"})
    page.wait_for_function(
        "wanted => document.querySelector('#seen output')?.innerText.endsWith(wanted)", arg=clicked
    )


@pytest.mark.browser
def test_what_is_off_waits_in_the_legend(page):
    hqq = f"{PLOT}.data.find(t => t.uid === 'quanto-hqq-lim').visible"
    show(page, "one of them")
    key = page.locator("#chart .keys [data-uid=quanto-hqq-lim]")
    assert not page.evaluate(hqq) and key.get_attribute("aria-pressed") == "false"
    key.click()
    page.wait_for_function(hqq)
    show(page, "one of them")  # new results leave the choice alone
    assert page.evaluate(hqq) and key.get_attribute("aria-pressed") == "true"
    key.click()
    page.wait_for_function(f"!{hqq}")
    show(page, "quantizers")  # no longer off
    page.wait_for_function(hqq)
    show(page, "one of them")
    page.wait_for_function(f"!{hqq}")


@pytest.mark.browser
def test_hover_gives_the_split_and_shows_the_lines_band(page):
    show(page)
    band = "document.querySelector('#chart .tracequanto-zd-band').style.visibility"
    assert page.evaluate(band) == "hidden"
    x, y = point(page, "ZD", 12)
    page.mouse.move(x + 2, y)
    page.mouse.move(x, y)
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    told = page.locator("#chart .hoverlayer .hovertext").text_content()
    for part in ("ZD", "Accuracy", "±", "n = 60", "average bits 3.00", "MiB", "bits "):
        assert part in told
    assert page.evaluate(band) == ""
    assert page.locator("#chart .plot.clickable").count() == 1
    page.mouse.move(5, 5)
    page.wait_for_function(f"{band} === 'hidden'")


@pytest.mark.browser
def test_another_models_points_cannot_be_clicked(page):
    show(page, "two models")
    assert page.locator("#chart [data-axis=size]").get_attribute("aria-pressed") == "true"
    x, y = point(page, "large, LIM", 20)
    page.mouse.move(x + 2, y)
    page.mouse.move(x, y)
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    page.mouse.click(x, y)
    settle(page)
    assert page.locator("#seen output").count() == 0


@pytest.mark.browser
def test_the_axis_switch_needs_no_server(page):
    show(page)
    posts = []
    page.on("request", lambda request: posts.append(request.url))
    titles = "document.querySelector('#chart .xtitle').textContent"
    assert page.evaluate(titles) == "Average bits per layer"
    page.click("#chart [data-axis=size]")
    page.wait_for_function(f"{titles} === 'Size of the model, MiB'")
    x = page.evaluate(f"{PLOT}.data.find(t => t.uid === 'quanto-lim').x")
    lim = next(c for c in ALL if c.ordering == "lim").splits
    assert x == pytest.approx([COST.total(split) / MIB for split in lim])
    show(page, "pruning")  # new results leave the choice alone
    assert page.evaluate(titles) == "Size of the model, MiB"
    assert not [url for url in posts if "plotly" in url]
    show(page, "three levels")
    assert page.evaluate(titles).startswith("Layers raised to 8 bits")
    assert not page.locator("#chart .axes").is_visible()


@pytest.mark.browser
def test_the_line_follows_the_slider(page):
    show(page)
    points = breakpoints(COST, (4, 2), rank_layers("lim", made_up.scores(), 24))
    for axis in ("bits", "size"):
        page.click(f"#chart [data-axis={axis}]")
        wait_for_chart(page)
        for position in (0, 7, 24):
            page.locator(RANGE).evaluate(
                "(r, v) => { r.value = v; r.dispatchEvent(new Event('input')); }",
                points.bytes[position],
            )
            value = {"bits": 2 + position / 12, "size": points.bytes[position] / MIB}[axis]
            line = page.locator("#chart .position").bounding_box()["x"]
            wanted = page.evaluate(
                f"""x => {PLOT}.getBoundingClientRect().left
                   + {PLOT}._fullLayout.xaxis._offset + {PLOT}._fullLayout.xaxis.d2p(x)""",
                value,
            )
            assert line == pytest.approx(wanted, abs=2)
            chip = page.inner_text("#chart .position b")
            assert chip == (f"{value:.2f} bits" if axis == "bits" else f"{value:.1f} MiB")
    show(page, "three levels")
    assert not page.locator("#chart .position").is_visible()


@pytest.mark.browser
def test_a_zoom_and_hidden_lines_survive_new_results(page):
    show(page)
    x, y = point(page, "ZD", 12)
    page.mouse.move(x, y - 60)
    page.mouse.down()
    page.mouse.move(x + 150, y - 60, steps=5)
    page.mouse.up()
    zoomed = page.evaluate(f"{PLOT}._fullLayout.xaxis.range")
    assert zoomed[0] == pytest.approx(3, abs=0.02) and zoomed[1] < 3.8
    key = page.get_by_role("button", name="ZD", exact=True)
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    zd = "document.querySelector('#chart .tracequanto-zd')"
    page.wait_for_function(f"!{zd}")
    page.click("#lim")
    page.wait_for_function(f"{PLOT}.data.filter(t => t.mode === 'lines+markers').length === 1")
    page.click("#eight")
    page.wait_for_function(f"{PLOT}.data.filter(t => t.mode === 'lines+markers').length > 5")
    assert page.evaluate(f"{PLOT}._fullLayout.xaxis.range") == zoomed
    assert page.evaluate(f"!{zd}")
    page.get_by_role("button", name="ZD", exact=True).press("Enter")
    page.wait_for_function(f"!!{zd}")


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_downloads_are_real_files(open_page, url, theme, tmp_path):
    page = open_page(f"{url}?__theme={theme}", viewport={"width": 1100, "height": 1000})
    page.wait_for_selector("#bar .cell")
    show(page)
    page.click("#chart [data-axis=size]")
    files = {}
    for kind in ("png", "svg", "csv"):
        with page.expect_download() as download:
            page.click(f"#chart [data-save={kind}]")
        assert download.value.suggested_filename == f"lwq-minimal_pairs-acc.{kind}"
        files[kind] = tmp_path / kind
        download.value.save_as(files[kind])
    image = pytest.importorskip("PIL.Image").open(files["png"])
    assert image.size == (2400, 1350)
    ground = image.convert("RGBA").getpixel((5, 5))
    assert ground[3] == 255 and (sum(ground[:3]) > 700) == (theme == "light")
    svg = files["svg"].read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "Size of the model, MiB" in svg
    for title in ("Grammar pairs: accuracy", "ZD, other way", "Random"):  # it stands alone
        assert title in svg
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text(encoding="utf-8"))))
    assert len(rows) == len(list(csv.DictReader(io.StringIO(figure("eight")["csv"]))))
    # what is on the page is as before
    assert page.evaluate("document.querySelector('#chart .legend')") is None


@pytest.mark.browser
def test_the_theme_can_change_at_any_time(page):
    show(page)
    ink = "getComputedStyle(document.querySelector('#chart .xtick text')).fill"
    light = page.evaluate(ink)
    page.evaluate("document.body.classList.toggle('dark')")
    assert page.evaluate(ink) != light


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 390, 768, 1600])
def test_fits_the_window_and_moves_nothing(open_page, url, width):
    page = open_page(url, viewport={"width": width, "height": 900})
    page.wait_for_selector("#bar .cell")
    assert not page.locator("#chart").is_visible()
    show(page, "pruning")
    after = "document.querySelector('#after').getBoundingClientRect().top + scrollY"
    top = page.evaluate(after)
    frame = "document.querySelector('#chart .frame').getBoundingClientRect().height"
    for name in ("pruning", "eight", "lim"):
        show(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(frame) == 380
        if width > 700:
            assert page.evaluate(after) == top
        svg = page.evaluate(f"{PLOT}.querySelector('.main-svg').getBoundingClientRect().width")
        assert svg == pytest.approx(page.evaluate(f"{PLOT}.clientWidth"), abs=1)
    show(page, "three levels")  # whose axis has the longest title
    box = "document.querySelector(selector).getBoundingClientRect()"
    edges = f"selector => {{ const box = {box}; return [box.left, box.right]; }}"
    left, right = page.evaluate(edges, "#chart .xtitle")
    start, end = page.evaluate(edges, "#chart .main-svg")
    assert start <= left < right <= end
    show(page, "pruning")
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_function(
        f"Math.abs({PLOT}._fullLayout.width - {PLOT}.clientWidth) < 2 && {PLOT}.clientWidth > 400"
    )
    for button in page.locator("#chart button").all():
        assert button.is_visible() and button.bounding_box()["height"] >= 24
    for name in ("PNG", "SVG"):
        assert page.get_by_role("button", name=f"Download as {name}").count() == 1
    label = page.locator("#chart .plot").get_attribute("aria-label")
    assert re.match("Grammar pairs: accuracy", label)


# ---- without a browser


def test_a_clicked_split_is_validated():
    chart = CurveChart()
    assert chart.preprocess(None) is None  # before the first click
    clicked = {"split": [4, 2, 0], "quantizer": "quanto"}
    assert chart.preprocess(clicked) == clicked
    for split in ("44", [4, 17], [[4]], None):
        with pytest.raises(gr.Error):
            chart.preprocess({"split": split, "quantizer": "quanto"})
    for bad in ({}, "x", {"split": [4, 2]}, {"split": [4, 2], "quantizer": 4}):
        with pytest.raises(gr.Error):
            chart.preprocess(bad)


def test_plotly_is_where_it_is_looked_for():
    assert plotly_path().is_file()
    assert all(name in {*ORDERINGS} for name in made_up.TWO_LEVELS)
