// Two buttons that save a figure of the page as a picture: Plotly draws it here, nothing is sent anywhere.
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".picture");
  root.replaceChildren(...["png", "svg"].map((format) => button(format, data)));
}

function button(format, data) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = `Picture (${format.toUpperCase()})`;
  element.title = format === "png" ? "Pixels, at twice the size on the screen." : "Lines and letters, sharp at every size.";
  element.addEventListener("click", () => save(format, data));
  return element;
}

// Plotly is not reachable by name, but the figure's own camera is: it saves as the figure's settings say.
function save(format, { figure, name }) {
  const drawn = document.querySelector(`.st-key-${figure} .js-plotly-plot`);
  const buttons = [...(drawn?.querySelectorAll(".modebar-btn") ?? [])];
  const camera = buttons.find((one) => /^Download/.test(one.dataset.title ?? "")) ?? buttons[0];
  if (!camera) return;
  const before = drawn._context.toImageButtonOptions;
  drawn._context.toImageButtonOptions = { format, filename: name, scale: format === "png" ? 2 : 1 };
  camera.dispatchEvent(new MouseEvent("click"));
  drawn._context.toImageButtonOptions = before;
}
