// A page from a file, shut in: it runs no script, loads nothing, opens nothing, and leads nowhere.
const POLICY =
  '<!DOCTYPE html><meta http-equiv="Content-Security-Policy" ' +
  'content="default-src \'none\'; style-src \'unsafe-inline\'; img-src data:; form-action \'none\'">';

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".sheet");
  if (root.shown === data.html) return;
  root.shown = data.html;
  const frame = document.createElement("iframe");
  // Without allow-scripts nothing in it runs; allow-same-origin lets this page, and only it, measure the frame.
  frame.setAttribute("sandbox", "allow-same-origin");
  frame.referrerPolicy = "no-referrer";
  frame.title = data.title;
  frame.srcdoc = POLICY + bare(data.html);
  frame.addEventListener("load", () => {
    const inside = frame.contentDocument;
    const fit = () => { frame.style.height = `${inside.documentElement.scrollHeight + 2}px`; };
    inside.addEventListener("click", (event) => {
      const link = event.target.closest?.("a[href], area[href]");
      if (!link) return;
      event.preventDefault();
      const href = link.getAttribute("href");
      if (href.startsWith("#")) inside.getElementById(decodeURIComponent(href.slice(1)))?.scrollIntoView();
    });
    inside.addEventListener("toggle", fit, true);
    new ResizeObserver(fit).observe(inside.body);
    fit();
  });
  root.replaceChildren(frame);
}

// The page without what its policy forbids, so that the browser does not even try. A document that is only parsed
// is inert: nothing of it runs or loads.
function bare(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const never = "script, link, base, meta[http-equiv], iframe, frame, object, embed, form, audio, video, source";
  for (const one of page.querySelectorAll(never)) one.remove();
  for (const one of page.querySelectorAll("[src], [srcset], [background], [poster], image, use")) {
    for (const name of ["src", "srcset", "background", "poster", "href", "xlink:href"]) {
      if (!(one.getAttribute(name) ?? "").startsWith("data:")) one.removeAttribute(name);
    }
  }
  for (const one of page.querySelectorAll("*")) {
    for (const { name } of [...one.attributes]) if (name.startsWith("on")) one.removeAttribute(name);
  }
  return page.documentElement.outerHTML;
}
