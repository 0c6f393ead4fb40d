"use strict";
// Sort a table by a click on the head of a column: numbers from the largest down, names from A to Z.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const isNumber = head.classList.contains("n");
      const first = isNumber ? "descending" : "ascending";
      const second = isNumber ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value;
      const compare = isNumber
        ? (a, b) => sign * (value(a) - value(b))
        : (a, b) => sign * value(a).localeCompare(value(b));
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
    });
  });
}

// Name the cell of the large confusion matrix under the pointer.
const cellData = document.getElementById("cells");
if (cellData) {
  const { names, support, cells, block } = JSON.parse(cellData.textContent);
  const picture = document.getElementById("confusion");
  const output = document.getElementById("cell");
  const side = Math.ceil(names.length / block);
  const largest = new Map();
  for (const cell of cells) {
    const key = Math.floor(cell[0] / block) * side + Math.floor(cell[1] / block);
    if (!largest.has(key)) largest.set(key, cell);
  }
  const hint = output.textContent;
  const show = (event) => {
    const box = picture.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * side);
    const row = Math.floor(((event.clientY - box.top) / box.height) * side);
    // The nearest mistake within a finger's width.
    let best = null;
    let nearest = 26;
    for (let y = row - 5; y <= row + 5; y++) {
      for (let x = column - 5; x <= column + 5; x++) {
        const distance = (x - column) ** 2 + (y - row) ** 2;
        if (x >= 0 && x < side && distance < nearest && largest.has(y * side + x)) {
          best = largest.get(y * side + x);
          nearest = distance;
        }
      }
    }
    output.textContent = best
      ? `${names[best[0]]} taken for ${names[best[1]]}: ${best[2]} of ${support[best[0]]} images`
      : hint;
  };
  picture.addEventListener("pointermove", show);
  picture.addEventListener("pointerdown", show);
}
