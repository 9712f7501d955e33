/** A command to be copied. */

export function command(node, text) {
  node.replaceChildren();
  if (!text) return;
  node.append(document.getElementById("command-template").content.cloneNode(true));
  node.querySelector("code").textContent = text;
  const button = node.querySelector("button");
  button.addEventListener("click", async () => {
    let word = "Copied";
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without HTTPS a browser lends its clipboard to nobody: the command is selected, to be copied by hand.
      getSelection().selectAllChildren(node.querySelector("code"));
      word = "Selected";
    }
    button.textContent = word;
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
