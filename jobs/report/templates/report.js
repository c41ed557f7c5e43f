"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  const controls = document.getElementById("controls");
  if (controls) {
    controls.hidden = false;
    const filter = document.getElementById("class-filter");
    filter.addEventListener("change", () => {
      for (const block of document.querySelectorAll(".class-block")) {
        block.hidden = filter.value !== "" && block.dataset.class !== filter.value;
      }
    });
    for (const box of controls.querySelectorAll(".method-toggle")) {
      box.addEventListener("change", () => {
        for (const item of document.querySelectorAll("#galaxies [data-method]")) {
          if (item.dataset.method === box.value) item.hidden = !box.checked;
        }
      });
    }
  }

  const valueOf = (row, column, numeric) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent.trim();
    const value = parseFloat(cell.dataset.value);
    return Number.isNaN(value) ? -Infinity : value;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = header.hasAttribute("data-numeric");
        const falling = header.getAttribute("aria-sort") === "ascending";
        for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => {
          const [x, y] = [valueOf(a, column, numeric), valueOf(b, column, numeric)];
          const order = numeric ? x - y || 0 : x.localeCompare(y, undefined, { numeric: true });
          return falling ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
