// Two outputs with their differences marked. Every text is set by textContent.
const RIGHT_TO_LEFT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".beside");
  root.style.setProperty("--muted", data.muted);
  root.replaceChildren(...data.rows.map((row) => {
    const text = make("div", "text");
    // Not "auto": a language code before the text would decide.
    const letter = row.tokens.map((token) => (token.s ? "" : token.t)).join("").match(/\p{L}/u);
    text.dir = letter && RIGHT_TO_LEFT.test(letter[0]) ? "rtl" : "ltr";
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

function make(tag, css = "", text = null) {
  const element = document.createElement(tag);
  if (css) element.className = css;
  if (text !== null) element.textContent = text;
  return element;
}
