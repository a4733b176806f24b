"use strict";
// Makes the header of every table a button that sorts its rows: numbers as numbers, empty cells last in both directions.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  headers.forEach((header, column) => {
    if (!header.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    const byNumber = header.classList.contains("number");
    const key = (row) => {
      const cell = row.cells[column];
      if (byNumber) return cell.hasAttribute("data-sort") ? Number(cell.dataset.sort) : null;
      return cell.textContent.trim() || null;
    };
    button.addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = byNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
        return descending ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
