// The token of a server that asks who calls. It is kept for as long as this tab is open, sent in
// headers only, and never part of an address.

import { byId, setText } from "./dom.js";

const KEPT_AS = "sightline.token";
let asking = null;

export const token = () => sessionStorage.getItem(KEPT_AS) ?? "";

/** Asks for another token than `refused`, once for all who need it. False where none was given. */
export function signIn(refused) {
  if (token() !== refused) return Promise.resolve(true); // somebody has asked meanwhile
  asking ??= ask(refused).finally(() => (asking = null));
  return asking;
}

function ask(refused) {
  const dialog = byId("token-dialog");
  const input = byId("token-input");
  setText(byId("token-error"), refused ? "That token is wrong, or has expired." : "");
  input.value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      const given = input.value.trim();
      input.value = "";
      if (dialog.returnValue !== "yes" || !/^[!-~]+$/.test(given)) return resolve(false);
      sessionStorage.setItem(KEPT_AS, given);
      resolve(true);
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}
