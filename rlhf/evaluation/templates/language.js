// The page is English; the button swaps its texts for those of the catalogue and back. A {} in an
// English text stands for a word or a number, {1} in the Chinese one for the first of them.
(() => {
  const literal = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const patterns = Object.keys(CHINESE).filter((key) => key.includes("{}")).map((key) =>
    [new RegExp("^" + key.split("{}").map(literal).join("([^ ]+)") + "$"), CHINESE[key]]);
  const inChinese = (text) => {
    if (Object.hasOwn(CHINESE, text)) return CHINESE[text];
    for (const [pattern, chinese] of patterns) {
      const found = text.match(pattern);
      if (found) return chinese.replace(/\{(\d)\}/g, (_, place) => found[place]);
    }
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest("[translate=no], code, script, button")) continue;
    // Thin spaces stay: they belong to numbers.
    const [, before, text, after] = node.data.match(/^([ \n]*)([^]*?)([ \n]*)$/);
    const chinese = inChinese(text.replace(/[ \n]+/g, " "));
    if (chinese !== undefined) texts.push([node, node.data, before + chinese + after]);
  }
  const button = document.getElementById("language");
  button.hidden = false;
  button.addEventListener("click", () => {
    const chinese = document.documentElement.lang === "en";
    document.documentElement.lang = chinese ? "zh-CN" : "en";
    button.textContent = chinese ? "English" : "中文";
    for (const [node, english, translated] of texts) node.data = chinese ? translated : english;
  });
})();
