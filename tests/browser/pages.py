"""Opens the pages of report in a headless browser and checks them: pages.py BROWSER FOLDER."""

import re
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

PAGES = ["report.html", "many.html", "compare.html", "sweep.html", "data.html"]
WIDTHS = [1280, 390]
SCHEMES = ["light", "dark"]
# Milliseconds in which sorting or filtering 5,000 examples must be done, layout included.
LIMIT = 100
# Pages with more examples than this are too large for a screenshot of their whole length.
AXE_RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}

failures: list[str] = []


def check(condition: bool, message: str) -> None:
    if not condition:
        failures.append(message)
        print(f"FAILED {message}", flush=True)


def open_page(context, path: Path, problems: list[str]) -> Page:
    page = context.new_page()
    page.on("console", lambda message: problems.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    address = path.as_uri()
    page.on("request", lambda request: request.url.split("#")[0] == address or problems.append(f"request: {request.url}"))
    page.goto(address)
    return page


def check_look(browser, folder: Path, screenshots: Path) -> None:
    """Every page at every width in both schemes: rules of axe-core, no sideways scrolling, a screenshot."""
    for name in PAGES:
        for scheme in SCHEMES:
            for width in WIDTHS:
                where = f"{name} at {width} pixels, {scheme}"
                problems: list[str] = []
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
                )
                page = open_page(context, folder / name, problems)
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                check(wide <= 0, f"{where}: scrolls sideways by {wide} pixels")
                # Folded parts must hold to the rules too.
                page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
                result = Axe().run(page, options=AXE_RULES)
                for violation in result.response["violations"]:
                    nodes = [node["html"][:160] + " " + node.get("failureSummary", "")[:200] for node in violation["nodes"][:3]]
                    check(False, f"{where}: {violation['id']}: {violation['help']}: {nodes}")
                page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = false; })")
                stem = f"{name.removesuffix('.html')}-{width}-{scheme}"
                page.screenshot(path=screenshots / f"{stem}.png", full_page=True)
                check(not problems, f"{where}: {problems}")
                context.close()


def check_structure(page: Page, name: str) -> None:
    """Language, order of headings, labels, and a text alternative for every drawing."""
    check(page.evaluate("document.documentElement.lang") == "en", f"{name}: no language")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((node) => Number(node.tagName[1]))")
    check(levels[0] == 1 and levels.count(1) == 1, f"{name}: headings begin with {levels[:3]}")
    jumps = [(before, after) for before, after in zip(levels, levels[1:]) if after > before + 1]
    check(not jumps, f"{name}: headings jump: {jumps[:3]}")
    bare = page.evaluate(
        """[...document.querySelectorAll('svg')].filter((drawing) => {
            const names = (drawing.getAttribute('aria-labelledby') || '').split(' ').map((id) => document.getElementById(id));
            return drawing.getAttribute('role') !== 'img' || names.length !== 2 || names.some((node) => !node?.textContent.trim());
        }).length"""
    )
    check(bare == 0, f"{name}: {bare} drawings without a text alternative")
    check(page.evaluate("document.querySelectorAll('main section').length") > 2, f"{name}: has no sections")


def check_keyboard(page: Page, name: str) -> None:
    """The skip link, the search and the sort buttons by keyboard alone, with a visible focus."""
    page.keyboard.press("Tab")
    check(page.evaluate("document.activeElement.textContent") == "Skip to the content", f"{name}: the first stop is no skip link")
    stops: list[str] = []
    for _ in range(400):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """(() => {
                const node = document.activeElement;
                const style = getComputedStyle(node);
                const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
                return [node.tagName, node.type || '', node.className, seen].join(' ');
            })()"""
        )
        if stop.startswith("BODY"):
            break
        check(stop.endswith("true"), f"{name}: the focus cannot be seen on {stop}")
        stops.append(stop)
    for wanted in ["INPUT search", "BUTTON button sort", "SUMMARY"]:
        check(any(stop.startswith(wanted) for stop in stops), f"{name}: `{wanted}` cannot be reached by keyboard")
    # Sorting by keyboard.
    page.focus(".sort")
    page.keyboard.press("Enter")
    sorted_by = page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')")
    check(sorted_by in ("ascending", "descending"), f"{name}: Enter does not sort ({sorted_by})")
    # Filtering by keyboard.
    page.focus("input[type=search]")
    page.keyboard.type("zzzz-nothing")
    check(page.locator(".status").inner_text().startswith("0 of"), f"{name}: the search says {page.locator('.status').inner_text()}")
    page.fill("input[type=search]", "")


TIMED = """(act) => {
    const table = document.querySelector('table[data-page]');
    const begun = performance.now();
    new Function('table', act)(table);
    table.getBoundingClientRect();
    document.body.offsetHeight;
    return performance.now() - begun;
}"""


def check_speed(browser, folder: Path) -> None:
    """Sorting and filtering 5,000 examples."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    page = open_page(context, folder / "many.html", [])
    count = page.locator(".status").inner_text()
    check(count == "5,000 examples", f"many.html: shows {count}")
    search = "const field = document.querySelector('input[type=search]'); field.value = '{}'; field.dispatchEvent(new Event('input'));"
    actions = {
        "first search": search.format("canoe"),
        "sort by the first score": "table.querySelectorAll('.sort')[0].click();",
        "sort it the other way": "table.querySelectorAll('.sort')[0].click();",
        "sort by the change": "table.querySelectorAll('.sort')[2].click();",
        "search for a row": search.format("row-4321"),
        "search for nothing": search.format(""),
        "show what got worse": "const kind = document.querySelector('.controls select'); kind.value = 'worse'; kind.dispatchEvent(new Event('change'));",
    }
    for action, code in actions.items():
        times = [page.evaluate(TIMED, code) for _ in range(1 if action == "first search" else 5)]
        print(f"5,000 examples, {action}: {min(times):.1f} to {max(times):.1f} ms")
        check(min(times) < LIMIT, f"many.html: {action} takes {min(times):.0f} ms")
    context.close()


def check_sorting(page: Page) -> None:
    """What sorting and filtering show is right."""
    values = "[...document.querySelectorAll('table[data-page] tbody')].map((node) => Number(node.dataset.keys.split(' ')[0]))"
    page.locator("table[data-page] .sort").first.click()
    falling = page.evaluate(values)
    check(falling == sorted(falling, reverse=True) and len(falling) > 1, "many.html: the first click does not sort downwards")
    page.locator("table[data-page] .sort").first.click()
    rising = page.evaluate(values)
    check(rising == sorted(rising) and rising[0] < falling[0], "many.html: the second click does not sort upwards")
    page.fill("input[type=search]", "row-0042")
    check(page.locator("table[data-page] tbody").count() == 1, "many.html: a row is not found by its id")
    page.fill("input[type=search]", "")
    page.select_option(".controls select", "worse")
    status = page.locator(".status").inner_text()
    worse = int(re.match(r"([\d,]+) of", status).group(1).replace(",", ""))
    all_worse = page.evaluate("[...document.querySelectorAll('table[data-page] tbody')].every((node) => node.classList.contains('worse'))")
    check(0 < worse < 5000 and all_worse, f"many.html: the filter shows {status}")
    page.locator(".pager button", has_text="Next").click()
    check(page.locator(".place").inner_text().startswith("2 of"), "many.html: there is no second page")


def check_without_script(browser, folder: Path) -> None:
    """Every example is on the page without the script, and nothing is hidden."""
    context = browser.new_context(java_script_enabled=False)
    page = open_page(context, folder / "report.html", [])
    rows = page.locator("#examples tbody.example").count()
    controls = page.locator(".controls").count()
    check(rows > 5 and controls == 0, f"report.html without script: {rows} rows, {controls} controls")
    context.close()


def check_print(browser, folder: Path, screenshots: Path) -> None:
    context = browser.new_context()
    page = open_page(context, folder / "report.html", [])
    page.pdf(path=screenshots / "report.pdf", format="A4")
    page.emulate_media(media="print", color_scheme="dark")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    check(colour == "rgb(255, 255, 255)", f"report.html prints on {colour}")
    context.close()


def main() -> int:
    program, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    screenshots = folder / "screenshots"
    screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name in PAGES:
            problems: list[str] = []
            # With the page's own policy, which must allow the page's own script.
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = open_page(context, folder / name, problems)
            check_structure(page, name)
            if name == "report.html":
                check_keyboard(page, name)
            if name == "many.html":
                check_sorting(page)
            check(not problems, f"{name}: {problems}")
            context.close()
        check_without_script(browser, folder)
        check_speed(browser, folder)
        check_print(browser, folder, screenshots)
        check_look(browser, folder, screenshots)
        browser.close()
    print(f"screenshots: {screenshots}")
    print(f"{len(failures)} failures" if failures else "all pages are sound")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
