// Outputs to pick from. Every text is set by textContent; nothing here reads HTML or touches the network.
export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".suspects");
  const focused = root.querySelector("button:focus")?.dataset.number;
  const scrolled = root.querySelector("ul")?.scrollTop ?? null;
  root.style.setProperty("--muted", data.muted);
  const list = make("ul");
  list.setAttribute("aria-label", data.label);
  list.append(...data.rows.map((row) => line(row, (number) => setTriggerValue("picked", { number, at: Date.now() }))));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const all = [...list.querySelectorAll("button")];
    all[all.indexOf(event.target.closest("button")) + step]?.focus();
    event.preventDefault();
  });
  root.replaceChildren(list);
  const picked = list.querySelector('[aria-current="true"]');
  if (scrolled !== null) list.scrollTop = scrolled;
  if (picked && (picked.offsetTop < list.scrollTop || picked.offsetTop + picked.offsetHeight > list.scrollTop + list.clientHeight)) {
    list.scrollTop = picked.offsetTop - list.clientHeight / 3;
  }
  if (focused) list.querySelector(`button[data-number="${focused}"]`)?.focus({ preventScroll: true });
}

function line(row, choose) {
  const element = make("li");
  const button = make("button");
  button.type = "button";
  button.dataset.number = row.number;
  if (row.picked) button.setAttribute("aria-current", "true");
  const text = make("span", "text", row.text);
  text.dir = "auto";
  const why = make("span", "why");
  why.append(make("span", "", row.why));
  if (row.said) why.append(make("span", "said", `${row.sign} ${row.said}`));
  button.append(text, why);
  button.addEventListener("click", () => choose(row.number));
  element.append(button);
  return element;
}
