// The page on a phone: its address as a code that a phone's camera reads.

import { byId, el, setText } from "./dom.js";
import { server } from "./server.js";

const LOOPBACK = /^(localhost|127\..*|\[::1\])$/;

/** Makes the button work. */
export function offerPhone() {
  const dialog = byId("phone-dialog");
  byId("phone").addEventListener("click", async () => {
    byId("phone-code").replaceChildren();
    setText(byId("phone-address"), "");
    setText(byId("phone-about"), "");
    dialog.showModal();
    try {
      const info = await server.info();
      const address = addressFor(info);
      setText(byId("phone-address"), address);
      setText(byId("phone-about"), aboutOf(address, info));
      if (!address) return;
      const reply = await server.request(`api/code.svg?address=${encodeURIComponent(address)}`);
      const url = URL.createObjectURL(await reply.blob());
      byId("phone-code").replaceChildren(el("img", { src: url, alt: `A QR code of ${address}`, width: 240, height: 240, on: { load: () => URL.revokeObjectURL(url) } }));
    } catch (error) {
      setText(byId("phone-about"), error.message);
    }
  });
}

/** Where a phone reaches this page; "" where it does not. */
function addressFor({ whip_url: published }) {
  const known = published ? [new URL(".", published)] : [];
  const found = [new URL(".", document.baseURI), ...known].find(({ hostname }) => !LOOPBACK.test(hostname));
  return found ? new URL(location.hash, found).href : "";
}

function aboutOf(address, { sign_in: asks }) {
  if (!address) return "This server listens on this machine only. Started with --https (make run HTTPS=1) it can be reached by phones in the same network.";
  const camera = address.startsWith("https:") ? "" : " Without https a phone shows the page, but gives it no camera and no microphone.";
  return `Point the phone's camera at it.${asks ? " The page then asks for the key." : ""}${camera}`;
}
