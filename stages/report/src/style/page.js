//<![CDATA[
// Sorts, filters and pages the examples of a table marked with data-page; the page is complete without this script.
(() => {
  "use strict";
  const make = (name, properties, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };
  const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  const enhance = (table) => {
    const size = Number(table.dataset.page);
    const noun = table.dataset.noun || "row";
    const items = [...table.tBodies].map((node, at) => ({
      node, at, keys: (node.dataset.keys || "").split(" ").map((key) => key === "" ? NaN : Number(key)), text: null,
    }));
    const state = { page: 0, column: -1, falling: true, query: "", kind: "" };
    let shown = items;

    const status = make("p", { className: "status" });
    status.setAttribute("role", "status");
    const search = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    const kinds = make("select", {}, make("option", { value: "", textContent: "all" }));
    for (const kind of (table.dataset.kinds || "").split("|").filter(Boolean)) {
      kinds.append(make("option", { value: kind, textContent: kind.replaceAll("-", " ") }));
    }
    const controls = make("div", { className: "controls" },
      make("label", {}, make("span", { textContent: "Search" }), search),
      ...(kinds.length > 1 ? [make("label", {}, make("span", { textContent: "Show" }), kinds)] : []),
      status);
    controls.setAttribute("role", "search");
    const previous = make("button", { type: "button", textContent: "Previous" });
    const next = make("button", { type: "button", textContent: "Next" });
    const place = make("span", { className: "place" });
    const pager = make("nav", { className: "pager" }, previous, place, next);
    pager.setAttribute("aria-label", `Pages of ${noun}s`);

    const textOf = (item) => item.text ??= item.node.textContent.toLowerCase();
    const draw = () => {
      const pages = Math.max(1, Math.ceil(shown.length / size));
      state.page = Math.min(Math.max(state.page, 0), pages - 1);
      const from = state.page * size;
      // The head stays where it is, because moving it would lose the focus on its buttons.
      for (const body of [...table.tBodies]) body.remove();
      table.append(...shown.slice(from, from + size).map((item) => item.node));
      status.textContent = shown.length === items.length ? counted(items.length, noun)
        : `${shown.length.toLocaleString("en")} of ${counted(items.length, noun)}`;
      place.textContent = `${state.page + 1} of ${pages}`;
      previous.disabled = state.page === 0;
      next.disabled = state.page === pages - 1;
      pager.hidden = pages === 1;
    };
    const compare = (left, right) => {
      const [a, b] = [left.keys[state.column], right.keys[state.column]];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || left.at - right.at;
      return (state.falling ? b - a : a - b) || left.at - right.at;
    };
    const update = () => {
      const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
      shown = items.filter((item) => (state.kind === "" || item.node.classList.contains(state.kind))
        && words.every((word) => textOf(item).includes(word)));
      if (state.column >= 0) shown.sort(compare);
      state.page = 0;
      draw();
    };

    for (const heading of table.tHead.querySelectorAll("th[data-sort]")) {
      const column = Number(heading.dataset.sort);
      const button = make("button", { type: "button", className: "sort" }, ...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        state.falling = state.column === column ? !state.falling : heading.dataset.first !== "rising";
        state.column = column;
        for (const other of table.tHead.querySelectorAll("th[data-sort]")) other.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
        update();
      });
    }
    search.addEventListener("input", () => { state.query = search.value; update(); });
    kinds.addEventListener("change", () => { state.kind = kinds.value; update(); });
    // The table's start stays in view, and the focus on a button that can be pressed.
    const turn = (by) => {
      state.page += by;
      draw();
      controls.scrollIntoView({ block: "nearest" });
      if (document.activeElement === document.body) (previous.disabled ? next : previous).focus();
    };
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));

    const box = table.closest(".scroll") || table;
    box.before(controls);
    box.after(pager);
    draw();
    // Texts are collected while nothing else is to do, so that the first search is as fast as the next.
    let at = 0;
    const collect = () => {
      const end = Math.min(at + 500, items.length);
      for (; at !== end; at += 1) textOf(items[at]);
      if (at !== items.length) setTimeout(collect);
    };
    setTimeout(collect, 50);
  };
  for (const table of document.querySelectorAll("table[data-page]")) enhance(table);
})();
//]]>
