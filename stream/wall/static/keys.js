/** The keyboard: j and k, Enter, /, Esc, ?. */

export function listen({ tiles, search, help, clear }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const isTyping = event.target.matches("input:not([type=radio]), select, textarea");
    if (document.querySelector("dialog[open]")) return; // a dialog closes itself by Esc
    if (event.key === "Escape") {
      clear();
      document.activeElement.blur();
    } else if (isTyping) {
      if (event.key === "Enter" && event.target === search) step(tiles, 0);
      return;
    } else if (event.key === "/") {
      search.focus();
      search.select();
    } else if (event.key === "?") {
      help.showModal();
    } else if (event.key === "j" || event.key === "k") {
      step(tiles, event.key === "j" ? 1 : -1);
    } else {
      return;
    }
    event.preventDefault();
  });
}

function step(tiles, by) {
  const shown = tiles.shown();
  if (!shown.length) return;
  const at = shown.findIndex((tile) => tile.node.contains(document.activeElement));
  const next = at < 0 ? shown[0] : shown[Math.min(shown.length - 1, Math.max(0, at + by))];
  next.button.focus({ preventScroll: true });
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  next.node.scrollIntoView({ block: "nearest", behavior: isCalm ? "auto" : "smooth" });
}
