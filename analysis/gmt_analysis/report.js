// A click on a head sorts its table by that column: numbers by the number they begin with, the rest as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const sign = head.ariaSort === "descending" ? 1 : -1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    const text = row => row.cells[column].textContent.replace(/(\d),(?=\d{3})/g, "$1");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
      if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;  // an empty cell is last either way
      return sign * (isNaN(x) ? text(a).localeCompare(text(b)) : x - y);
    });
    body.append(...rows);
  }));
}
