// The list of keys: a link that opens it, and the key "?" on every page. It asks the server nothing.
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".keys");
  const link = make("button", "link", "Keyboard");
  link.type = "button";
  link.title = "Keys that work here (?)";
  const dialog = make("dialog");
  dialog.setAttribute("aria-label", "Keyboard");
  dialog.append(make("h2", "", "Keyboard"), list(data.keys));
  const close = make("button", "close", "Close");
  close.type = "button";
  close.addEventListener("click", () => dialog.close());
  dialog.append(close);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  const open = () => { if (!dialog.open) dialog.showModal(); };
  link.addEventListener("click", open);
  root.replaceChildren(link, dialog);
  const pressed = (event) => {
    if (event.key !== "?" || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.composedPath()[0];
    if (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) return;
    event.preventDefault();
    open();
  };
  document.addEventListener("keydown", pressed);
  const watch = new MutationObserver(mend);
  const sidebar = document.querySelector('[data-testid="stSidebar"]');
  if (sidebar) watch.observe(sidebar, { childList: true, subtree: true });
  mend();
  return () => {
    document.removeEventListener("keydown", pressed);
    watch.disconnect();
  };
}

// Streamlit puts the sections of its navigation between the list and its items, so that a screen reader finds a
// list without items: the sections are the lists.
function mend() {
  for (const list of document.querySelectorAll('ul[data-testid="stSidebarNavItems"]:not([role])')) {
    list.setAttribute("role", "presentation");
  }
  for (const section of document.querySelectorAll('ul[data-testid="stSidebarNavItems"] > div:not([role])')) {
    section.setAttribute("role", "list");
  }
}

function list(groups) {
  const element = make("div", "groups");
  for (const [title, rows] of groups) {
    element.append(make("h3", "", title));
    const table = make("dl");
    for (const [keys, does] of rows) {
      const term = make("dt");
      for (const key of keys) term.append(make("kbd", "", key));
      table.append(term, make("dd", "", does));
    }
    element.append(table);
  }
  return element;
}
