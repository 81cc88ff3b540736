// What the components share; it is put before each one's script when that is read.
const RIGHT_TO_LEFT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

// An element; its text is set by textContent, so that nothing in it is read as HTML.
function make(tag, css = "", text = null) {
  const element = document.createElement(tag);
  if (css) element.className = css;
  if (text !== null) element.textContent = text;
  return element;
}

// Which way tokens run, by their first letter. Not "auto": a language code before the text would decide.
function direction(tokens) {
  const letter = tokens.map((token) => (token.s ? "" : token.t)).join("").match(/\p{L}/u);
  return letter && RIGHT_TO_LEFT.test(letter[0]) ? "rtl" : "ltr";
}

// A colour scale between what its two ends stand for; the three stay on one line.
function scale(colours, low = "0", high = "") {
  const ramp = make("span", "ramp");
  for (const colour of colours) {
    const part = make("span");
    part.style.backgroundColor = colour;
    ramp.append(part);
  }
  const element = make("span", "scale");
  element.append(make("span", "", low), ramp, make("span", "", high));
  return element;
}

// Numbers that Python packed: base64 of little-endian float32.
function floats(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

