// What is kept, as a table whose rows are picked. Every text is set by textContent; nothing here reads HTML.
const FIRST = 10;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".shelf");
  const focused = root.querySelector("button:focus")?.dataset.name;
  root.style.setProperty("--wrong", data.wrong);
  root.style.setProperty("--muted", data.muted);
  const shown = root.all ? data.rows : data.rows.filter((row, at) => at < FIRST || row.picked);
  const table = make("table");
  table.append(head(data.columns));
  const body = make("tbody");
  for (const row of shown) body.append(line(row, (name) => setTriggerValue("picked", { name, at: Date.now() })));
  table.append(body);
  root.replaceChildren(table);
  if (shown.length < data.rows.length) {
    const more = make("button", "more", `Show all ${data.rows.length}`);
    more.type = "button";
    more.addEventListener("click", () => {
      root.all = true;
      body.replaceChildren(...data.rows.map((row) => line(row, (name) => setTriggerValue("picked", { name, at: Date.now() }))));
      more.remove();
    });
    root.append(more);
  }
  if (focused) [...root.querySelectorAll("button")].find((one) => one.dataset.name === focused)?.focus({ preventScroll: true });
  root.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const all = [...root.querySelectorAll(".name")];
    const next = all[all.indexOf(root.querySelector(".name:focus")) + step];
    if (next) next.focus();
    event.preventDefault();
  };
}

function head(columns) {
  const row = make("tr");
  for (const name of columns) {
    const one = make("th", name.toLowerCase(), name);
    one.scope = "col";
    row.append(one);
  }
  const top = make("thead");
  top.append(row);
  return top;
}

function line(row, choose) {
  const element = make("tr", ["row", row.picked ? "picked" : "", row.failed ? "failed" : ""].join(" ").trim());
  const name = make("th", "what");
  name.scope = "row";
  const button = make("button", "name", row.name);
  button.type = "button";
  button.dir = "auto";
  button.dataset.name = row.name;
  button.setAttribute("aria-pressed", String(row.picked));
  name.append(button);
  if (row.title) {
    const title = make("span", "title", row.title);
    title.dir = "auto";
    name.append(title);
  }
  const when = make("td", "when", row.when);
  when.title = row.exactly;
  const result = make("td", "result", row.result);
  result.dir = "auto";
  result.title = row.result;
  element.append(name, make("td", "kind", row.kind), make("td", "state", `${row.sign} ${row.state}`), when, result);
  element.addEventListener("click", () => choose(row.name));
  return element;
}
