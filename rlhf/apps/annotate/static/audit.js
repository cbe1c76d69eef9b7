// The auditor's screen: batches, the sample of the one that is open, flagged tasks.

let at = 0; // the marked row of the sample

function showAudit(next) {
  const same = view?.open?.batch.join() === next.open?.batch.join();
  view = next;
  if (!same) at = 0;
  drawAudit();
}

function drawAudit() {
  const words = root().querySelector(".verdict-note")?.value ?? "";
  root().replaceChildren(header(), h("div", { class: "audit" },
    h("h2", {}, t("batches")), view.batches.length ? batchTable() : h("p", { class: "hint" }, t("noBatches")),
    view.open ? sample(words) : null,
    h("h2", {}, t("flagged")),
    view.flagged.length ? view.flagged.map(flaggedTask) : h("p", { class: "hint" }, t("noFlagged"))));
  root().querySelector(".item.here")?.scrollIntoView({ block: "nearest" });
}

function batchTable() {
  const heads = ["annotator", "batch", "answers", "pace", "checked", "acceptable", "state"];
  const percent = (share) => `${Math.round(100 * share)}`;
  const rows = view.batches.map((row) => {
    const here = view.open?.batch.join() === [row.annotator, row.number].join();
    const share = row.checked
      ? `${percent(row.acceptable / row.checked)} % (${percent(row.low)}–${percent(row.high)})` : "–";
    const open = () => go({ action: "batch", batch: [row.annotator, row.number] });
    return h("tr", { class: here ? "here" : null, onclick: open },
      h("td", {}, h("button", { type: "button", class: "link" }, row.annotator)),
      h("td", {}, row.number), h("td", {}, row.answers), h("td", {}, t("seconds", Math.round(row.seconds))),
      h("td", {}, `${row.checked} / ${row.sample}`), h("td", {}, share),
      h("td", {}, h("span", { class: `state ${row.state}`, title: row.note }, t(row.state))));
  });
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((word) => h("th", {}, t(word))))), h("tbody", {}, rows)));
}

function sample(words) {
  const [annotator, number] = view.open.batch;
  const note = h("input", {
    class: "verdict-note", value: words, placeholder: t("verdictNote"), "aria-label": t("verdictNote"), maxlength: 2000,
  });
  const judge = (good) => async () => {
    if (!good && !note.value.trim()) return note.focus(), tell(t("whyBack"), "error");
    const answer = await request({ action: "judge", batch: view.open.batch, good, note: note.value });
    if (answer) note.value = "", showAudit(answer), tell(t(good ? "accepted" : "rejected"));
  };
  return h("section", { class: "sample" },
    h("h2", {}, t("sampleOf", annotator, number, view.open.sample.length)),
    view.open.sample.map(sampled),
    h("div", { class: "verdict" }, note, h("div", { class: "row" },
      button(t("reject"), null, judge(false)), button(t("accept"), null, judge(true), { class: "primary" }))));
}

function sampled(item, index) {
  const found = item.acceptable === null ? "" : item.acceptable ? "good" : "bad";
  return h("article", { class: `item ${found}${index === at ? " here" : ""}`, onclick: () => { at = index; } },
    category(item.category), conversation(item.messages), ranked(item),
    h("p", { class: "hint" }, item.label ? t(item.label) : "", item.note ? ` · ${item.note}` : ""),
    h("div", { class: "row" },
      button(t("good"), "Y", () => check(index, true), { "aria-pressed": String(found === "good") }),
      button(t("bad"), "N", () => check(index, false), { "aria-pressed": String(found === "bad") })));
}

// The responses from best to worst, with the grades between them.
function ranked(item) {
  if (!item.ranks) return h("ol", { class: "ranked" }, item.responses.map((text, place) => answerRow("–", place, text)));
  const order = item.ranks.map((rank, place) => [rank, place]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return h("ol", { class: "ranked" }, order.flatMap(([rank, place], index) => {
    const grade = index && rank > order[index - 1][0] ? item.grades[rank - 2] : null;
    return [grade ? h("li", { class: "between" }, `${grade} · ${t(`grade${grade}`)}`) : null,
      answerRow(rank, place, item.responses[place])];
  }));
}

function answerRow(rank, place, text) {
  return h("li", {}, h("span", { class: "number" }, rank), h("b", {}, letter(place)),
    h("p", { class: "text", dir: "auto" }, text.trim() ? text : h("i", {}, t("empty"))));
}

function flaggedTask(item) {
  return h("article", { class: "item" },
    h("p", { class: "notice" }, `${item.annotator}: ${item.note || "–"}`),
    category(item.category), conversation(item.messages), ranked(item),
    h("div", { class: "row" }, button(t("putBack"), null, () => go({ action: "put_back", key: item.key }))));
}

function check(index, good) {
  const { batch, sample } = view.open;
  const key = sample[index].key;
  at = Math.min(index + 1, sample.length - 1);
  go({ action: "check", key, batch, good });
}

function auditKey(event) {
  if (!view.open) return false;
  const moves = { ArrowUp: -1, ArrowDown: 1 };
  const verdicts = { y: true, n: false };
  if (event.key in moves) {
    at = Math.min(Math.max(at + moves[event.key], 0), view.open.sample.length - 1);
    drawAudit();
  } else if (event.key in verdicts) check(at, verdicts[event.key]);
  else return false;
  return true;
}
