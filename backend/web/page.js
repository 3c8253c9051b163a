"use strict";

// What textual-serve's own script (static/js/textual.js) leaves out or does otherwise than a person expects.
(() => {
  const terminal = document.getElementById("terminal");
  const classes = document.body.classList;

  // Of the address that the browser knows: an ssh -L may have given it another port.
  const socket = new URL("ws", window.location.href);
  socket.protocol = socket.protocol === "https:" ? "wss:" : "ws:";
  terminal.dataset.sessionWebsocketUrl = socket.href;

  const begin = window.onload;
  window.onload = async (event) => {
    // The size of a cell is measured once: not in another font than is drawn.
    await Promise.allSettled([400, 700].map((weight) => document.fonts.load(`${weight} 16px "Roboto Mono"`)));
    begin(event);
  };

  window.addEventListener(
    "keydown",
    (event) => {
      if (classes.contains("-closed")) {
        event.stopImmediatePropagation();
        return;
      }
      // The terminal would send ^V, and the app paste from a clipboard of its own; so the browser pastes.
      if (event.ctrlKey && !event.altKey && event.key.toLowerCase() === "v") {
        event.stopImmediatePropagation();
      }
    },
    true,
  );

  // Ctrl+W deletes a word in a terminal, and closes a tab: the answers in the wizard would be gone.
  window.addEventListener("beforeunload", (event) => {
    if (classes.contains("-first-byte") && !classes.contains("-closed")) {
      event.preventDefault();
    }
  });

  // Files are offered at /download/KEY; here everything is below the secret.
  const open = window.open.bind(window);
  const offered = `${window.location.origin}/download/`;
  window.open = (url, ...rest) => {
    const wanted = String(url ?? "");
    return open(wanted.startsWith(offered) ? `download/${wanted.slice(offered.length)}` : url, ...rest);
  };

  const message = document.getElementById("message");
  const again = document.getElementById("again");
  // Keys work without a click first. Not before the connection is there: the focus is told over it.
  new MutationObserver(() => {
    const takes = classes.contains("-closed") ? again : terminal.querySelector("textarea");
    takes.focus();
  }).observe(document.body, { attributeFilter: ["class"] });
  again.addEventListener("click", async () => {
    const answer = await fetch(window.location.href).catch(() => null);
    if (answer?.ok) {
      window.location.reload();
      return;
    }
    message.textContent = answer
      ? "Another llama-tui serve answers here. Open the address that it printed."
      : "Nothing answers here any more. Start `llama-tui serve` again (or the ssh -L), and open the address it prints.";
  });
})();
