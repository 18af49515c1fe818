// The book's own script: ages of runs, tables that sort and filter, a link for a JupyterHub. It asks no other host.
(function () {
  "use strict";

  function age(seconds) {
    for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
      const n = Math.floor(seconds / length);
      if (n >= 1) return `${n} ${unit}${n === 1 ? "" : "s"} ago`;
    }
    return "just now";
  }

  function showAges() {
    for (const element of document.querySelectorAll("time[datetime]")) {
      const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000;
      if (Number.isFinite(seconds) && seconds >= 0) element.append(` (${age(seconds)})`);
    }
  }

  function value(row, column) {
    const cell = row.cells[column];
    return (cell.dataset.sort ?? cell.textContent).trim();
  }

  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b);
  }

  function sortBy(table, header, column) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)));
    body.append(...(descending ? rows.reverse() : rows));
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(table, header, column));
      header.append(button);
    });
  }

  function makeFilter(form) {
    const rows = [...document.getElementById(form.dataset.filter).tBodies[0].rows];
    const count = form.querySelector("output");
    const { status, part, words } = form.elements;
    function apply() {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const ok = (!status.value || row.dataset.status.split(";").includes(status.value)) &&
          (!part.value || row.dataset.part === part.value) && wanted.every((word) => text.includes(word));
        row.hidden = !ok;
        shown += ok;
      }
      count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    }
    for (const event of ["input", "change"]) form.addEventListener(event, apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  function makeHubForm(form) {
    const output = form.querySelector("output");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      const hub = form.elements.hub.value.trim().replace(/\/+$/, "");
      if (!/^https?:\/\/[^/]+/.test(hub)) return;
      const repository = form.dataset.repository;
      const path = `lab/tree/${repository.split("/").pop()}/notebooks/${form.elements.slug.value}/chapter.py`;
      const query = new URLSearchParams({ repo: repository, branch: form.dataset.branch, urlpath: path });
      const link = document.createElement("a");
      link.href = `${hub}/hub/user-redirect/git-pull?${query}`;
      link.textContent = link.href;
      output.replaceChildren(link);
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    showAges();
    document.querySelectorAll("table.sortable").forEach(makeSortable);
    document.querySelectorAll("form[data-filter]").forEach(makeFilter);
    document.querySelectorAll(".hub-form").forEach(makeHubForm);
  });
})();
