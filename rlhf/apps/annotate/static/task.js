// The annotator's screen. The cursor walks over stops: the responses by place, then the gaps, then the end.

let view = null; // what the server said
let ranking = null;
let label = null;
let note = "";
let cursor = 0;

const GRADES = [1, 2, 3, 4, 5];
const draftKey = () => `annotation-draft/${view.user}/${view.task.key}`;

function showTask(next) {
  view = next;
  if (view.task) {
    const { responses, ranks, grades } = view.task;
    const draft = JSON.parse(sessionStorage.getItem(draftKey()) ?? "null");
    ranking = new Ranking(responses.length, draft?.ranks ?? ranks, draft?.grades ?? grades);
    label = draft?.label ?? view.task.label;
    note = draft?.note ?? view.task.note;
    cursor = 0;
  }
  drawTask();
  scrollTo(0, 0);
}

function drawTask() {
  const sentBack = view.sent_back.slice(0, 1).map((batch) =>
    h("p", { class: "notice" }, t("sentBack", batch.number, batch.note)));
  const body = view.task ? [taskMain(), h("aside")] : [nothing()];
  root().replaceChildren(header(), ...sentBack, h("div", { class: view.task ? "task" : "" }, body));
  if (view.task) redraw();
}

function header() {
  const { tasks, settled, answered_by_me: mine } = view.progress;
  const audits = view.screen === "audit";
  const flip = () => {
    language = 1 - language;
    localStorage.setItem("annotation-language", language);
    audits ? drawAudit() : drawTask();
  };
  return h("header", {},
    h("h1", {}, t(audits ? "audit" : "title")),
    h("div", { class: "progress" },
      h("progress", { max: tasks, value: settled, "aria-label": t("settled", settled, tasks) }),
      h("span", {}, t("settled", settled, tasks), audits ? null : h("b", {}, t("mine", mine)))),
    h("nav", {},
      button(t("other"), null, flip, { class: "quiet" }),
      audits ? null : button(t("keys"), "?", showKeys, { class: "quiet keys" }),
      h("span", { class: "user" }, view.user),
      h("a", { href: "logout" }, t("signOut"))));
}

function taskMain() {
  const { category: names, messages, responses, answered } = view.task;
  return h("div", { class: "reading" },
    answered ? h("p", { class: "notice" }, t("revising")) : null,
    h("section", { class: "prompt", "aria-label": t("prompt") }, category(names), conversation(messages)),
    h("div", { class: "responses" }, responses.map((text, place) => {
      const twin = responses.indexOf(text);
      return h("article", { class: "stop", tabindex: 0, "data-stop": place, onfocus: () => point(place) },
        h("div", { class: "head" },
          h("h2", { "aria-label": t("response", letter(place)) }, letter(place)),
          twin < place ? h("span", { class: "hint" }, t("same", letter(twin))) : null,
          h("div", { class: "rank", "data-rank": place })),
        h("p", { class: "text", dir: "auto" }, text.trim() ? text : h("i", {}, t("empty"))));
    })));
}

// What changes with each key is drawn anew; the texts stay, so that a selection in them does too.
function redraw() {
  const { focus } = document.activeElement?.matches(":focus-visible") ? document.activeElement.dataset : {};
  const count = view.task.responses.length;
  const numbers = Array.from({ length: count }, (_, index) => [index + 1, String(index + 1)]);
  for (const slot of root().querySelectorAll("[data-rank]")) {
    const place = Number(slot.dataset.rank);
    slot.replaceChildren(choice(t("rankOf", letter(place)), numbers, ranking.ranks[place],
      (rank) => { point(place); digit(rank); }));
  }
  root().querySelector("aside").replaceChildren(panel());
  mark();
  if (focus) root().querySelector(`[data-focus="${focus}"]`)?.focus();
  saveDraft();
}

function saveDraft() {
  const draft = { ranks: ranking.ranks, grades: ranking.complete ? ranking.gradeList : [], label, note };
  sessionStorage.setItem(draftKey(), JSON.stringify(draft));
}

function panel() {
  const tiers = ranking.tiers;
  const gaps = ranking.gaps();
  const rows = tiers.flatMap((tier, index) => [
    index ? gapRow(gaps[index - 1], index - 1) : dropZone(0),
    h("li", { class: "tier", ...dropping(index, true) },
      h("span", { class: "number" }, index + 1), tier.map(chip),
      tier.length > 1 ? h("span", { class: "hint" }, t("tie")) : null),
  ]);
  const waiting = ranking.ranks.flatMap((rank, place) => (rank === null ? [place] : []));
  return h("div", { class: "panel" },
    h("h2", {}, t("ranking")), h("p", { class: "hint" }, t("rankingHint")),
    h("ol", {}, rows, dropZone(tiers.length)),
    waiting.length
      ? h("div", { class: "tier tray" }, h("span", { class: "hint" }, t("unranked")), waiting.map(chip))
      : null,
    h("h3", {}, t("label")),
    choice(t("label"), [["helpful", t("helpful"), null, "H"], ["harmless", t("harmless"), null, "N"]], label,
      (value) => { label = value; redraw(); }),
    h("input", {
      class: "note", value: note, placeholder: t("note"), "aria-label": t("note"), maxlength: 2000,
      oninput: (event) => { note = event.target.value; saveDraft(); },
    }),
    finish());
}

function chip(place) {
  // No <button>: Firefox does not drag those.
  return h("span", {
    class: "chip", role: "button", tabindex: -1, draggable: "true", "data-chip": place,
    "aria-label": t("response", letter(place)),
    onclick: () => { point(place); reveal(); },
    ondragstart: (event) => event.dataTransfer.setData("text/plain", place),
  }, letter(place));
}

function dropping(index, tie) {
  const hover = (on) => (event) => {
    event.preventDefault();
    event.currentTarget.classList.toggle("over", on);
  };
  const drop = (event) => {
    event.preventDefault();
    ranking.move(Number(event.dataTransfer.getData("text/plain")), index, tie);
    redraw();
  };
  return { ondragover: hover(true), ondragleave: hover(false), ondrop: drop };
}

const dropZone = (index) => h("li", { class: "zone", "aria-hidden": "true", ...dropping(index, false) });

function gapRow(gap, index) {
  const stop = view.task.responses.length + index;
  const grade = ranking.grades.get(gap) ?? null;
  const options = GRADES.map((value) => [value, String(value), t(`grade${value}`)]);
  return h("li", { class: "gap stop", "data-stop": stop, ...dropping(index + 1, false) },
    ranking.complete
      ? [choice(t("gap"), options, grade, (value) => { point(stop); digit(value); }),
         h("span", { class: "hint" }, grade ? t(`grade${grade}`) : t("gap"))]
      : null);
}

function finish() {
  const missing = [
    [ranking.ranks.filter((rank) => rank === null).length, "leftRanks"],
    [ranking.ungraded, "leftGrades"],
    [label ? 0 : 1, "leftLabel"],
  ].filter(([count]) => count);
  const status = missing.map(([count, word]) => t(word, count)).join(" · ") || t("ready");
  const { answered } = view.task;
  return h("div", { class: "finish" },
    h("p", { class: "hint", role: "status" }, status),
    h("div", { class: "row" },
      button(t(answered ? "update" : "submit"), "Enter", submit,
        { class: "primary", "aria-disabled": String(missing.length > 0) })),
    h("div", { class: "row" },
      button(t("previous"), "B", () => go({ action: "step", key: view.task.key, step: -1 })),
      answered
        ? button(t("next"), "V", () => go({ action: "step", key: view.task.key, step: 1 }))
        : [button(t("skip"), "S", skip), button(t("flag"), "F", flag)]));
}

function nothing() {
  const { tasks, settled, skipped_by_me: skipped } = view.progress;
  const over = tasks === settled;
  return h("section", { class: "nothing" },
    h("h2", {}, t(over ? "doneTitle" : "waitTitle")), h("p", {}, t(over ? "doneText" : "waitText")),
    h("div", { class: "row" },
      skipped && !over ? button(t("takeUp", skipped), null, () => go({ action: "take_up" })) : null,
      button(t("again"), "R", () => go({ action: "open" })),
      button(t("previous"), "B", () => go({ action: "step", key: 2 ** 53 - 1, step: -1 }))));
}
