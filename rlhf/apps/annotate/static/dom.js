// Building the page. Text is always set as text: what models wrote is never read as HTML.

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

const letter = (place) => String.fromCharCode(65 + place);
const cap = (key) => h("kbd", { "aria-hidden": "true" }, key);

function button(word, key, act, attributes = {}) {
  return h("button", { type: "button", onclick: act, ...attributes }, word, key ? cap(key) : null);
}

// One choice of several, as a row of buttons. options: [[value, text, title, key]].
function choice(name, options, chosen, choose) {
  const row = options.map(([value, text, title, key]) =>
    h("button", {
      type: "button", title, "aria-pressed": String(value === chosen), "data-focus": `${name}/${value}`,
      onclick: () => choose(value),
    }, text, key ? cap(key) : null));
  return h("div", { class: "choice", role: "group", "aria-label": name }, row);
}

function category(names) {
  if (!names.length) return h("p", { class: "path" }, t("uncategorised"));
  const parts = names.map((name) => h("span", {}, language == 1 ? name.zh : name.en));
  return h("p", { class: "path" }, parts);
}

function conversation(messages) {
  return h("div", {}, messages.map((message, index) =>
    h("div", { class: `turn ${message.role}${index === messages.length - 1 ? " last" : ""}` },
      h("h3", {}, t(message.role)), h("p", { class: "text", dir: "auto" }, message.content))));
}

// A question with a text field; `done` gets the text.
function ask(title, hint, word, done) {
  const field = h("textarea", { rows: 3, maxlength: 2000, "aria-label": title });
  const dialog = h("dialog", { onclose: () => dialog.remove() },
    h("form", { method: "dialog", onsubmit: () => done(field.value) },
      h("h2", {}, title), h("p", { class: "hint" }, hint), field,
      h("div", { class: "row" },
        button(t("cancel"), "Esc", () => dialog.close()), h("button", { class: "primary" }, word))));
  root().append(dialog);
  dialog.showModal();
}

function tell(text, kind = "") {
  root().querySelector(".toast")?.remove();
  const toast = h("p", { class: `toast ${kind}`, role: kind ? "alert" : "status" }, text);
  root().append(toast);
  if (!kind) setTimeout(() => toast.remove(), 1500);
}

const root = () => element.querySelector("#desk");
