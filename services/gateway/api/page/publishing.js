// The buttons that show this browser's camera, another of its cameras, or its screen.

import { Camera } from "./client/index.js";
import { byId, el, notice, setText } from "./dom.js";
import { server } from "./server.js";

/** Makes the buttons work; `onCreated` gets each new session. Returns what publishes. */
export function offerCameras({ onCreated }) {
  const camera = new Camera(server);
  const screen = new Camera(server, { screen: true });
  offer(camera, byId("camera"), { off: "Use my camera", starting: "Starting …", on: "Stop my camera" }, onCreated);
  offer(screen, byId("screen"), { off: "Share my screen", starting: "Starting …", on: "Stop my screen" }, onCreated);
  byId("screen").hidden = !navigator.mediaDevices?.getDisplayMedia; // phones have none
  camera.addEventListener("change", () => offerOthers(camera));
  byId("cameras").addEventListener("change", ({ target }) => camera.use(target.value).catch((error) => notice(error.message)));
  return [camera, screen];
}

function offer(camera, button, texts, onCreated) {
  camera.addEventListener("change", () => {
    button.disabled = camera.state === "starting";
    setText(button, texts[camera.state]);
  });
  camera.addEventListener("broke", ({ detail }) => notice(detail));
  button.addEventListener("click", async () => {
    if (camera.state === "on") return camera.stop();
    try {
      onCreated(await camera.start());
    } catch (error) {
      notice(error.message);
    }
  });
}

// Which cameras there are a browser tells only while one of them may be used.
async function offerOthers(camera) {
  const cameras = camera.state === "on" ? await camera.cameras() : [];
  byId("camera-choice").hidden = cameras.length < 2;
  const options = cameras.map(({ deviceId, label }, index) => el("option", { value: deviceId, text: label || `Camera ${index + 1}` }));
  byId("cameras").replaceChildren(...options);
  byId("cameras").value = camera.inUse;
}
