// Two outputs with their differences marked. Every text is set by textContent.

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".beside");
  root.style.setProperty("--muted", data.muted);
  root.replaceChildren(...data.rows.map((row) => {
    const text = make("div", "text");
    text.dir = direction(row.tokens);
    row.tokens.forEach((token, index) => {
      if (index && (token.g || token.n)) text.append(token.n ? make("br") : document.createTextNode(" "));
      const tag = { gone: "del", new: "ins" }[token.mark] ?? "span";
      text.append(make(tag, token.s ? "special" : "", token.t));
    });
    const line = make("div", "row");
    line.append(make("div", "name", row.name), text, make("div", "mean", `${row.mean} nats per token`));
    return line;
  }));
}
