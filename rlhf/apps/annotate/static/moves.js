// What the annotator does: keys, and the requests that they lead to.

const cards = () => view.task.responses.length;
const lastStop = () => cards() + ranking.gaps().length * ranking.complete;

function mark() {
  if (!view.task) return;
  for (const stop of root().querySelectorAll("[data-stop]"))
    stop.classList.toggle("here", Number(stop.dataset.stop) === cursor);
  root().querySelector(".finish").classList.toggle("here", cursor === lastStop());
}

function point(stop) {
  cursor = stop;
  mark();
}

function reveal() {
  root().querySelector(`[data-stop="${cursor}"]`)?.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

// A digit ranks the marked response or grades the marked gap; the cursor goes on to what is missing.
function digit(number) {
  const gap = ranking.gaps()[cursor - cards()];
  if (cursor < cards() && number <= cards()) ranking.rank(cursor, number);
  else if (gap && number <= 5) ranking.grades.set(gap, number);
  else return;
  const places = Array.from({ length: cards() }, (_, index) => (cursor + 1 + index) % cards());
  const unranked = places.find((place) => ranking.ranks[place] === null);
  const ungraded = ranking.gradeList.indexOf(null);
  cursor = unranked ?? (ungraded < 0 ? lastStop() : cards() + ungraded);
  redraw();
  reveal();
}

function clearHere() {
  if (cursor < cards()) ranking.ranks[cursor] = null;
  else ranking.grades.delete(ranking.gaps()[cursor - cards()]);
  redraw();
}

function step(delta) {
  point(Math.min(Math.max(cursor + delta, 0), lastStop()));
  reveal();
}

function nudge(delta) {
  if (cursor >= cards()) return;
  ranking.nudge(cursor, delta);
  redraw();
}

function setLabel(value) {
  label = value;
  redraw();
}

let busy = false;

const send = (call) => server.call([props.value, JSON.stringify(call)]);

// One request at a time; what fails leaves the screen, and the draft, as they are.
async function request(call) {
  if (busy) return null;
  busy = true;
  try {
    const answer = await send(call);
    if (answer && !answer.error) return answer;
    // Gradio answers nothing when the server cannot be reached or has forgotten who signed in.
    tell(t(answer?.error ?? "offline"), "error");
    if (["lapsed", "gone"].includes(answer?.error)) setTimeout(() => go({ action: "open" }), 2500);
  } catch {
    tell(t("offline"), "error");
  } finally {
    busy = false;
  }
  return null;
}

async function go(call, done) {
  const draft = view?.task && draftKey();
  const answer = await request(call);
  if (!answer) return;
  if (done && draft) sessionStorage.removeItem(draft);
  answer.screen === "audit" ? showAudit(answer) : showTask(answer);
  if (done) tell(t(done));
}

function submit() {
  if (!ranking.complete || ranking.ungraded || !label) return;
  const answer = { ranks: ranking.ranks, grades: ranking.gradeList, label, note };
  go({ action: "answer", key: view.task.key, answer }, "saved");
}

const skip = () => go({ action: "skip", key: view.task.key }, "skipped");

function flag() {
  ask(t("flagTitle"), t("flagHint"), t("flag"), (text) =>
    go({ action: "flag", key: view.task.key, note: text }, "flaggedNow"));
}

function showKeys() {
  const rows = [
    ["1 – 9", "keyDigits"], ["↑ ↓", "keyMove"], ["Shift ↑ ↓", "keyNudge"], ["⌫", "keyClear"],
    ["H", "helpful"], ["N", "harmless"], ["Enter", "submit"], ["S", "skip"], ["F", "flag"],
    ["B", "previous"], ["V", "next"],
  ];
  const dialog = h("dialog", { onclose: () => dialog.remove() },
    h("form", { method: "dialog" }, h("h2", {}, t("keys")),
      h("dl", {}, rows.flatMap(([key, word]) => [h("dt", {}, cap(key)), h("dd", {}, t(word))])),
      h("div", { class: "row" }, h("button", { class: "primary" }, t("close")))));
  root().append(dialog);
  dialog.showModal();
}

const TASK_KEYS = {
  ArrowUp: (event) => (event.shiftKey ? nudge(-1) : step(-1)),
  ArrowDown: (event) => (event.shiftKey ? nudge(1) : step(1)),
  Backspace: clearHere,
  h: () => setLabel("helpful"),
  n: () => setLabel("harmless"),
  s: () => view.task.answered || skip(),
  f: () => view.task.answered || flag(),
  v: () => view.task.answered && go({ action: "step", key: view.task.key, step: 1 }),
  Enter: submit,
  "?": showKeys,
};

function taskKey(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "b") return go({ action: "step", key: view.task?.key ?? 2 ** 53 - 1, step: -1 }), true;
  if (!view.task) return key === "r" && (go({ action: "open" }), true);
  if (/^[1-9]$/.test(key)) return digit(Number(key)), true;
  if (!TASK_KEYS[key]) return false;
  // Enter on a button that has the focus presses that button.
  if (key === "Enter" && document.activeElement?.matches("button:focus-visible, a:focus-visible")) return false;
  return TASK_KEYS[key](event), true;
}
