// Begins: the first view, the keyboard, and a sign of life while somebody works.

const KEEP_EVERY = 5 * 60 * 1000;
let active = false;

document.addEventListener("keydown", (event) => {
  active = true;
  const typing = event.target.closest?.("input, textarea, dialog");
  if (!view || typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (view.screen === "audit" ? auditKey(event) : taskKey(event)) event.preventDefault();
});
document.addEventListener("pointermove", () => { active = true; });

// The lease of an open task runs on only while its annotator does something.
setInterval(() => {
  if (active && view?.task && !view.task.answered)
    send({ action: "keep", key: view.task.key }).catch(() => {}); // submitting will tell
  active = false;
}, KEEP_EVERY);

// The value is the ticket that shows who has signed in (page.py).
const begin = () => props.value && !view && go({ action: "open" });
watch("value", begin);
begin();
